"""Lazy modules (``nn.LazyLinear``, ...), which PyTorch gives their weights where they are called for the first time.

In a run that leaves no trace copies of them are called. What these were given first initialises the modules themselves,
as the first step of a training would: from the user's random numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy

from ts_lightning.engine.running.batches import mapped, own


def waits(module: nn.Module) -> bool:
    """Whether a module waits for its first call, which will initialise it."""
    return isinstance(module, LazyModuleMixin) and "_initialize_hook" in vars(module)


class LazyModules:
    """The lazy modules of one model, and what they were called with."""

    def __init__(self) -> None:
        self._calls: dict[nn.Module, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def replace(self, modules: Sequence[nn.Module]) -> None:
        """Let copies run in the place of lazy modules, whose attributes are recorded and put back by others."""
        for module in modules:
            if waits(module):
                vars(module)["forward"] = partial(self._call, module, _copied(module))
                hook: Any = module._initialize_hook
                module._forward_pre_hooks.pop(hook.id, None)

    def initialise(self) -> list[nn.Parameter]:
        """Give those that were called their weights, which are returned; the order of training data stays the same."""
        tensors = [tensor for module in self._calls for tensor in module.parameters(recurse=False)]
        with torch.random.fork_rng({t.device.index for t in tensors if t.device.type == "cuda"}):
            for module, (args, kwargs) in self._calls.items():
                initialise: Any = module._infer_parameters
                initialise(module, args, kwargs)
        return [parameter for module in self._calls for parameter in module.parameters(recurse=False)]

    def _call(self, module: nn.Module, other: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if module not in self._calls:
            self._calls[module] = mapped(args, own), mapped(kwargs, own)
        result = other(*args, **kwargs)
        module._parameters.update(other._parameters)  # for whoever reads them in the run
        return result


def _copied(module: nn.Module) -> nn.Module:
    """A copy of a lazy module; buffers without a size cannot be copied."""
    sizeless: dict[int, Any] = {}
    for tensor in chain(module.parameters(recurse=False), module.buffers(recurse=False)):
        if is_lazy(tensor):
            kind: Any = type(tensor)
            sizeless[id(tensor)] = kind(device=tensor.device, dtype=tensor.dtype)
    return copy.deepcopy(module, sizeless)
