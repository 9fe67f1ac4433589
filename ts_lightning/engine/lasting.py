"""A graph that stays right while optimizers change the parameters in place that it was built from.

Autograd keeps references to what its nodes need. A graph that serves the steps until the next untangling needs the
values that parameters had when it was built: those that it would refer to are copied as they are saved. Everything else
is guarded as autograd does by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

#: what stands for a saved tensor: the tensor, and its version when it was saved; None for a copy
_Saved = tuple[Tensor, int | None]


def lasting(changing: Iterable[Tensor]) -> AbstractContextManager[None]:
    """Build graphs that stay right while ``changing`` are changed in place.

    A backward pass through them raises RuntimeError, as elsewhere, if another tensor that it needs was changed.

    Args:
        changing: tensors, whose views are recognised, too.
    """
    addresses = {tensor.untyped_storage().data_ptr() for tensor in changing if tensor.numel()}
    copies: dict[tuple[int, int, torch.Size, tuple[int, ...]], Tensor] = {}

    def pack(tensor: Tensor) -> _Saved:
        tensor = tensor.detach()  # or a node that saves its output would hold itself; the version is shared
        if tensor.layout != torch.strided or tensor.untyped_storage().data_ptr() not in addresses:
            return tensor, tensor._version
        key = tensor.data_ptr(), tensor._version, tensor.shape, tensor.stride()
        if key not in copies:
            copies[key] = tensor.clone()
        return copies[key], None

    return torch.autograd.graph.saved_tensors_hooks(pack, _unpack)


def _unpack(saved: _Saved) -> Tensor:
    tensor, version = saved
    if version is not None and tensor._version != version:
        raise RuntimeError(
            f"one of the tensors that a gradient needs, of shape {tuple(tensor.shape)}, has been modified by an "
            f"inplace operation: it is at version {tensor._version}, and was at {version} when it was saved"
        )
    return tensor
