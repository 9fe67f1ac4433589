"""Parameters that a forward writes, as one that averages its weights for a teacher does, keep their values.

The first run tells which are written: behind it, all but large ones are compared with copies. Later runs write to
copies of those, which a graph of autograd may hold on to.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ts_lightning.engine.batches import own

LARGE = 2**24  # bytes, from which on a tensor is copied only if it is seen to be written to


def bytes_of(tensor: Tensor) -> int:
    """The size of a tensor."""
    return tensor.numel() * tensor.element_size()


def version_of(tensor: Tensor) -> int:
    """How often a tensor was written to; 0 of one that does not count."""
    return 0 if tensor.is_inference() else tensor._version


def warn_of_write(tensor: Tensor) -> None:
    """Warn that a run has changed a tensor of which there is no copy."""
    warnings.warn(
        f"The forward on the reference batch wrote to a tensor {tuple(tensor.shape)} that a module holds, for the "
        f"first time now, and so changed it. Later ones leave it as it is.",
        stacklevel=2,
    )


class WrittenParameters:
    """Those of one model, as far as its runs have told."""

    def __init__(self) -> None:
        self._known: dict[int, nn.Parameter] | None = None  # by id; None before the first run

    def copy(self, modules: Sequence[nn.Module]) -> Callable[[], None]:
        """Put copies in the place of what parameters hold that runs write to.

        Returns:
            Function that gives the parameters of the modules their values back, behind the run.
        """
        parameters = _parameters(modules)
        first, known = self._known is None, {} if self._known is None else self._known
        chosen = parameters if first else [p for p in parameters if id(p) in known] if known else []
        held = [(p, p.data) for p in chosen if not (first and (p.is_meta or bytes_of(p) > LARGE))]
        copies = [own(data) for _, data in held]
        if not first:
            for (parameter, _), copy in zip(held, copies, strict=True):
                parameter.data = copy
        versions = _versions(parameters)

        def restore() -> None:
            self._known = known
            for (parameter, data), copy in zip(held, copies, strict=True):
                if first and _changed(parameter, data, copy):
                    known[id(parameter)] = parameter
                    data.copy_(copy)
                if parameter.data_ptr() != data.data_ptr():
                    parameter.data = data
            if _versions(parameters) == versions:
                return
            for parameter, version in zip(parameters, versions, strict=True):
                if version_of(parameter) != version and id(parameter) not in known:
                    known[id(parameter)] = parameter
                    if not first or bytes_of(parameter) > LARGE:
                        warn_of_write(parameter)

        return restore


def _versions(parameters: Sequence[nn.Parameter]) -> list[int]:
    """Of all of them, in the time that it takes where none is of inference mode."""
    try:
        return [parameter._version for parameter in parameters]
    except RuntimeError:
        return list(map(version_of, parameters))


def _parameters(modules: Sequence[nn.Module]) -> list[nn.Parameter]:
    """The modules' parameters, each once; but for those of lazy modules that have no memory yet."""
    found: dict[int, nn.Parameter] = {}
    for module in modules:
        for parameter in module._parameters.values():
            if parameter is not None:
                found[id(parameter)] = parameter
    return [p for p in found.values() if type(p) is nn.Parameter or not is_lazy(p)]


def _changed(parameter: Tensor, data: Tensor, copy: Tensor) -> bool:
    return parameter.data_ptr() != data.data_ptr() or not torch.equal(data, copy)
