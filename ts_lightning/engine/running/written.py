"""Parameters that a forward writes, as one that averages its weights for a teacher does, keep their values.

The first run of a module tells which are written: behind it, all but large ones are compared with copies. Later runs
write to copies of those. Writes that leave values as they are show in versions. Flags ``requires_grad`` that a forward
toggles are put back, too.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ts_lightning.engine.running.batches import own

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


def written_in(model: nn.Module) -> set[int]:
    """The ids of a model's parameters that runs are known to write to."""
    return {
        id(parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if name in _known.get(module, ())
    }


class Written:
    """Copies in the place of the parameters that runs write to, for one run; the modules' records put those back.

    A copy of what is trained is part of the graph that the run makes. All other parameters get their values back.

    Args:
        modules: of the run.
        seen: those that have been part of such a run to its end, so that their parameters are not compared any more.
    """

    def __init__(self, modules: Sequence[nn.Module], seen: Collection[nn.Module]) -> None:
        copies: dict[int, nn.Parameter] = {}
        self._others: list[_Held] = []
        self._by_id: dict[int, _Held] = {}
        for module in modules:
            if not isinstance(module._parameters, dict):  # of TorchScript
                continue
            known, new = _known.get(module, ()), module not in seen
            for name, parameter in list(module._parameters.items()):
                if type(parameter) is not nn.Parameter or parameter.is_meta:  # None, a lazy one, or a computed one
                    continue
                if name not in known:
                    self._others.append(_Held(module, name, parameter, new))
                    continue
                if id(parameter) not in copies:
                    copies[id(parameter)] = _copied(parameter)
                module._parameters[name] = copies[id(parameter)]
                vars(module)["register_parameter"] = module._parameters.__setitem__  # which takes what is no leaf, too

    def read(self, tensor: Tensor, data: Tensor) -> None:
        """Take note that the run has the ``data`` of a tensor, whose writes the tensor's version does not count."""
        if not self._by_id:
            self._by_id = {id(held.parameter): held for held in self._others}
        held = self._by_id.get(id(tensor))
        if held is not None:
            held.read(data)

    def restore(self) -> None:
        """Give the parameters that no copy stood for back what they held."""
        for held in self._others:
            if held.restore():
                _known.setdefault(held.module, set()).add(held.name)


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

    __slots__ = ("_data", "_read", "_requires_grad", "_sum", "_value", "_version", "module", "name", "parameter")

    def __init__(self, module: nn.Module, name: str, parameter: nn.Parameter, new: bool) -> None:
        self.module, self.name, self.parameter = module, name, parameter
        self._data, self._version = parameter.data, version_of(parameter)
        self._requires_grad = parameter.requires_grad
        large = bytes_of(parameter) > LARGE
        self._value = own(self._data) if new and not large else None
        self._sum = self._data.sum() if new and large else None
        self._read: list[Tensor] = []

    def read(self, data: Tensor) -> None:
        """Keep the values from here on, since the run has the parameter's ``data``."""
        self._read.append(data)
        written = version_of(self.parameter) != self._version
        recorded = self._data.is_cuda and torch.cuda.is_current_stream_capturing()  # which computes nothing
        if self._value is None and not written and not recorded and bytes_of(self._data) <= LARGE:
            self._value = own(self._data)

    def restore(self) -> bool:
        """Give it back what it held; returns whether the run has written to it."""
        parameter, data = self.parameter, self._data
        moved, rebound = version_of(parameter) != self._version, parameter.data_ptr() != data.data_ptr()
        moved = moved or (bool(self._read) and any(map(version_of, self._read)))
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
        if parameter.requires_grad != self._requires_grad:
            parameter.requires_grad_(self._requires_grad)
        return moved or rebound or changed
