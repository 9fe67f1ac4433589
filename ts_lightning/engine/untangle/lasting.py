"""A graph that stays right while optimizers change the parameters in place that it was built from.

Autograd keeps references to what its nodes need. A graph that serves the steps until the next untangling needs the
values that parameters had when it was built: of what is trained, and of buffers, copies are saved. Of what is frozen
there are none, which would hold a large model twice; once that is written to, the graph is out of date. Everything else
is guarded as autograd does by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ts_lightning.errors import TargetSpaceError

#: what stands for a saved tensor: the tensor, and its version when it was saved; None for a copy
_Saved = tuple[Tensor, int | None]
_NOWHERE = 0  # the address of what has no numbers of its own


class Lasting:
    """Makes graphs last, and knows when one is out of date.

    Args:
        changing: tensors that may be changed in place; their views are recognised, too.
        fixed: tensors that are hardly ever changed.
    """

    def __init__(self, changing: Iterable[Tensor], fixed: Iterable[Tensor]) -> None:
        self._changing = {_address(tensor) for tensor in changing} - {_NOWHERE}
        self._fixed = {_address(tensor) for tensor in fixed} - {_NOWHERE}
        self._copies: dict[tuple[object, ...], Tensor] = {}
        self._held: list[tuple[Tensor, int]] = []

    @contextmanager
    def graph(self) -> Iterator[None]:
        """Build graphs that last.

        A backward pass through them raises RuntimeError, as elsewhere, if another tensor that it needs was changed.

        Raises:
            TargetSpaceError: the block differentiates by torch.func, which allows no hooks on saved tensors.
        """
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._pack, _unpack):
                yield
        except RuntimeError as error:
            if "saved tensor hooks" not in str(error):
                raise
            raise TargetSpaceError(
                f"The forward differentiates by torch.func, which cannot be done while a graph is built that lasts to "
                f"the next pass over the reference batch ({error}). Use untangle=1."
            ) from error

    @property
    def outdated(self) -> bool:
        """Whether a fixed tensor that a graph needs has been changed in place."""
        return any(tensor._version != version for tensor, version in self._held)

    def _pack(self, tensor: Tensor) -> _Saved:
        tensor = tensor.detach()  # or a node that saves its output would hold itself; the version is shared
        address = _address(tensor)
        if address not in self._changing:
            if address in self._fixed:
                self._held.append((tensor, tensor._version))
            return tensor, tensor._version
        as_read = (tensor.dtype, tensor.is_conj(), tensor.is_neg())
        key = (tensor.data_ptr(), tensor._version, tensor.shape, tensor.stride(), *as_read)
        if key not in self._copies:
            self._copies[key] = tensor.clone()
        return self._copies[key], None


def _address(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # sparse ones, the zeros of forward differentiation, wrappers
        return _NOWHERE


def _unpack(saved: _Saved) -> Tensor:
    tensor, version = saved
    if version is not None and tensor._version != version:
        raise RuntimeError(
            f"one of the tensors that a gradient needs, of shape {tuple(tensor.shape)}, has been modified by an "
            f"inplace operation: it is at version {tensor._version}, and was at {version} when it was saved"
        )
    return tensor
