"""Parameters that a forward writes, as one that averages its weights for a teacher does, keep their values.

The first run of a module tells which are written: behind it, all but large ones are compared with copies. Later runs
write to copies of those.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

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


#: by module the names of its parameters that runs write to
_known: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()


def known_written(modules: Iterable[nn.Module]) -> Callable[[], None]:
    """Function that lets only what is known now of these modules' parameters be known as written again."""
    modules = list(modules)
    names = {module: set(_known.get(module, ())) for module in modules}

    def forget() -> None:
        for module, found in names.items():
            _known[module] = found

    return forget


def copy_written(modules: Sequence[nn.Module], seen: Collection[nn.Module]) -> Callable[[], None]:
    """Put copies in the place of the parameters that runs write to; the modules' records put those back.

    A copy of what is trained is part of the graph that the run makes.

    Args:
        modules: of the run.
        seen: those that have been part of such a run to its end, so that their parameters are not compared any more.

    Returns:
        Function that gives all other parameters their values back, behind the run.
    """
    copies: dict[int, nn.Parameter] = {}
    others: list[_Held] = []
    for module in modules:
        if not isinstance(module._parameters, dict):  # of TorchScript
            continue
        known, new = _known.get(module, ()), module not in seen
        for name, parameter in list(module._parameters.items()):
            if type(parameter) is not nn.Parameter or parameter.is_meta:  # None, a lazy one, or one that is computed
                continue
            if name not in known:
                others.append(_Held(module, name, parameter, new))
                continue
            if id(parameter) not in copies:
                copies[id(parameter)] = _copied(parameter)
            module._parameters[name] = copies[id(parameter)]
            vars(module)["register_parameter"] = module._parameters.__setitem__  # which takes what is no leaf, too

    def restore() -> None:
        for held in others:
            if held.restore():
                _known.setdefault(held.module, set()).add(held.name)

    return restore


def _copied(parameter: nn.Parameter) -> nn.Parameter:
    """A copy that modules take for a parameter; of what is trained, in the graph."""
    if not parameter.requires_grad:
        return nn.Parameter(own(parameter), requires_grad=False)
    copy: Any = parameter.clone()
    copy._is_param = True
    found: nn.Parameter = copy
    return found


class _Held:
    """A parameter that no run is known to write to, with a copy of its values in the first one."""

    __slots__ = ("_data", "_parameter", "_sum", "_value", "_version", "module", "name")

    def __init__(self, module: nn.Module, name: str, parameter: nn.Parameter, new: bool) -> None:
        self.module, self.name, self._parameter = module, name, parameter
        self._data, self._version = parameter.data, version_of(parameter)
        large = bytes_of(parameter) > LARGE
        self._value = own(self._data) if new and not large else None
        self._sum = self._data.sum() if new and large else None

    def restore(self) -> bool:
        """Give it back what it held; returns whether the run has written to it."""
        parameter, data = self._parameter, self._data
        moved, rebound = version_of(parameter) != self._version, parameter.data_ptr() != data.data_ptr()
        if rebound:
            parameter.data = data
        if self._value is not None:
            changed = not torch.equal(data, self._value)
            if changed:
                data.copy_(self._value)
        else:
            changed = moved or (self._sum is not None and not torch.equal(data.sum(), self._sum))
            if changed:
                warn_of_write(parameter)
        return moved or rebound or changed
