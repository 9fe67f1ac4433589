"""Calls that a forward makes in the reference pass, seen by a TorchFunctionMode, and what stands for some of them.

- A linear function or a convolution that takes a solved layer's weight is the layer's forward: a ``forward`` that is
  set on a module's instance, as adapters do, runs as it is and calls it so.
- Derivatives (forces by ``autograd.grad`` in ``forward``) are not computed. With weights that are solved from the very
  inputs they would be others than the trained model's; NaNs stand for them, and no solved layer may depend on these.
- Hooks on tensors are not registered: they would run at the pull-back.
- Dropout that is off in the pass is noise in training, which is followed to the layers (``noise.py``).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from ts_lightning.engine.noise import Noise
from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers.base import TargetLayer

_CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv3d)


class Calls(TorchFunctionMode):
    """The mode.

    Args:
        patched: the layer's forward in the pass, by module, of those modules that have a ``forward`` of their own.

    Attributes:
        differentiated: whether the forward asked for derivatives.
        noise: that training has on the tensors of the pass.
        values: the solved values, by id of their parameters, which stand for these in all other calls (``ties.py``).
    """

    def __init__(self, patched: Mapping[nn.Module, Callable[[Tensor], Any]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.differentiated = False
        self.noise = Noise()
        self.values: dict[int, Tensor] = {}
        self._of_weight = {id(module.weight): (module, forward) for module, forward in patched.items()}
        self._stand_ins: dict[Any, Callable[..., Any]] = {
            torch.autograd.grad: self._grad,
            torch.autograd.backward: self._nothing,
            Tensor.backward: self._nothing,
            Tensor.retain_grad: self._nothing,
            Tensor.register_hook: self._handle,
            Tensor.register_post_accumulate_grad_hook: self._handle,
            **self.noise.dropouts(),
        }
        if patched:
            self._stand_ins[functional.linear] = self._linear
            self._stand_ins.update({function: self._convolution(function) for function in _CONVOLUTIONS})

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call ``func``, or what stands for it."""
        stand_in = self._stand_ins.get(func)
        if stand_in is not None:
            return stand_in(*args, **(kwargs or {}))
        values = self.values
        if values and any(id(argument) in values for argument in args):
            args = tuple(values.get(id(argument), argument) for argument in args)
        found = func(*args, **kwargs) if kwargs else func(*args)
        self.noise.follow(func, args, found)
        return found

    def _grad(self, outputs: Any, inputs: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        self.differentiated = True
        inputs = [inputs] if isinstance(inputs, Tensor) else inputs
        return tuple(torch.full_like(x, torch.nan, requires_grad=False) for x in inputs)

    def _nothing(self, *args: Any, **kwargs: Any) -> None:
        self.differentiated = True

    def _handle(self, tensor: Tensor, hook: Any) -> RemovableHandle:
        return RemovableHandle(OrderedDict())

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
        if id(weight) not in self._of_weight:
            return functional.linear(input, weight, bias)
        module, forward = self._of_weight[id(weight)]
        _check(module, bias is module.bias)
        return forward(input)

    def _convolution(self, function: Any) -> Callable[..., Any]:
        def convolution(input: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
            if id(weight) not in self._of_weight:
                return function(input, weight, bias, *args, **kwargs)
            module: Any
            module, forward = self._of_weight[id(weight)]
            names = ("stride", "padding", "dilation", "groups")
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            own = all(_sizes(given[name]) == _sizes(getattr(module, name)) for name in given)
            _check(module, own and bias is module.bias and module.padding_mode == "zeros")
            return forward(input)

        return convolution


def _sizes(value: Any) -> Any:
    """One number for sizes that are all the same."""
    return value[0] if isinstance(value, (tuple, list)) and len(set(value)) == 1 else value


def _check(module: nn.Module, own: bool) -> None:
    if not own:
        raise TargetSpaceError(
            f"A {type(module).__name__}'s forward was replaced on the instance, and calls its function with the weight "
            f"and another bias, stride, padding or other option than the module's own. Expected these: add the layer "
            f"to exclude."
        )


def patched_forwards(
    parts: Mapping[nn.Module, Sequence[TargetLayer]], forwards: Mapping[nn.Module, Callable[..., Any]]
) -> dict[nn.Module, Callable[[Tensor], Any]]:
    """Those of the modules' ``forwards`` that a forward set on the instance has to reach by a function.

    Raises:
        TargetSpaceError: a module with such a forward that is neither dense nor a convolution.
    """
    found = {module: forward for module, forward in forwards.items() if "forward" in vars(module)}
    for module in found:
        if not isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
            raise TargetSpaceError(
                f"layer '{parts[module][0].module_name}' ({type(module).__name__}) has a forward that was set on the "
                f"instance. That is possible with nn.Linear and nn.Conv*: add '{parts[module][0].module_name}' to "
                f"exclude, or give the change a subclass."
            )
    return found
