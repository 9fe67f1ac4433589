"""What the runs of a model teach about it, so that the next one is undone in less time and to the right state."""

from __future__ import annotations

from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any
from weakref import ProxyTypes, WeakSet

import torch
from torch import Tensor, nn

_VALUES = (bool, int, float, complex, str, bytes, type(None), torch.Size, torch.dtype, torch.device)
_CODE = (type, FunctionType, BuiltinFunctionType, MethodType, ModuleType)
#: types whose objects cannot be changed, or are code, and those of proxies: what these stand for lives elsewhere
ATOMIC = frozenset((*_VALUES, *_CODE, nn.Parameter, *ProxyTypes))
#: what every nn.Module keeps for itself
INTERNAL = frozenset(vars(nn.Module()))


class Learned:
    """What one run of a model learns for the next.

    Attributes:
        starts: values that modules' attributes had before forward wrote to them for the first time, by module and name.
        registries: the keys of what modules had registered (hooks, buffers, ...) before forward added to it, likewise.
        arrays: arrays of NumPy that runs wrote to, by id, each with the values that it had before the first.
        items: what runs read of iterators, by the id of the container in which one stands and the key there, each with
            the container.
        large: large tensors that a run left as they were, by id, each with its version.
        seen: the modules of a run that came to its end.
        noted: by a module's class the names and types of the attributes that one had, and which of them to look into.
    """

    def __init__(self) -> None:
        self.starts: dict[nn.Module, dict[str, Any]] = {}
        self.registries: dict[tuple[nn.Module, str], set[Any]] = {}
        self.arrays: dict[int, tuple[Any, Any]] = {}
        self.items: dict[tuple[int, Any], tuple[Any, list[Any]]] = {}
        self.large: dict[int, tuple[Tensor, int]] = {}
        self.seen: WeakSet[nn.Module] = WeakSet()
        self.noted: dict[type, tuple[list[str], list[type], list[str]]] = {}

    def attributes(self, module: nn.Module, holder: dict[str, Any]) -> list[str]:
        """The names of a module's own attributes that can be changed."""
        names, types = list(holder), list(map(type, holder.values()))
        noted = self.noted.get(type(module))
        if noted is None or noted[0] != names or noted[1] != types:
            chosen = [
                name for name, kind in zip(names, types, strict=True) if kind not in ATOMIC and name not in INTERNAL
            ]
            noted = self.noted[type(module)] = (names, types, chosen)
        return noted[2]
