"""Weights that a forward reaches through a function, not through their module: dense layers and convolutions.

``functional.linear(x, w)``, ``x @ w``, ``w @ x``, ``torch.addmm(b, x, w)`` and ``functional.conv*(x, w)`` are layers of
their own where ``w`` is a parameter. :func:`applied` reads such a call, and :func:`layer_of` makes the layer. What a
call adds to its result, a layer has as its bias where it is a parameter, (out,), that all calls share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ts_lightning.config import TargetSpaceConfig
from ts_lightning.layers.affine import AffineLayer
from ts_lightning.layers.conv.convolution import ConvTargets
from ts_lightning.layers.conv.patches import Geometry
from ts_lightning.layers.linear import LinearTargets


@dataclass(frozen=True)
class Form:
    """How a function applies a weight; calls of one form are uses of one layer.

    Attributes:
        transposed: whether a dense layer's weight is (in, out) and not (out, in).
        geometry: of a convolution; None for a dense layer.
        shape: in which the weight is applied, where it is not the parameter's own.
    """

    transposed: bool = False
    geometry: Geometry | None = None
    shape: torch.Size | None = None

    def shaped(self, weight: Tensor) -> Tensor:
        """The parameter's value in the shape in which it is applied."""
        return weight if self.shape is None else weight.reshape(self.shape)


@dataclass(frozen=True)
class Seen:
    """A parameter, or what a call made of it that holds the same numbers.

    Attributes:
        weight: the parameter.
        shape: in which its numbers are, in their order.
        transposed: whether this matrix is transposed after that.
    """

    weight: Tensor
    shape: torch.Size
    transposed: bool = False

    @property
    def reshaped(self) -> torch.Size | None:
        """The shape, where it is not the parameter's own."""
        return None if self.shape == self.weight.shape else self.shape

    def through(self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], found: Any) -> Seen | None:
        """What a call that was given this made of it; None where that is something else."""
        if len(self.shape) == 2 and transposes(function, args, kwargs):
            return Seen(self.weight, self.shape, not self.transposed)
        if function in _VIEWS and not self.transposed and found.dtype == self.weight.dtype:  # not another reading
            return Seen(self.weight, found.shape)
        return None


@dataclass(frozen=True)
class Applied:
    """One call.

    Attributes:
        weight: the parameter.
        form: how it is applied.
        x: the layer's input.
        bias: what is added to the layer's output, None for nothing.
        columns: whether the result has its features in the last dimension but one, as that of w @ x has.
    """

    weight: Tensor
    form: Form
    x: Tensor
    bias: Tensor | None = None
    columns: bool = False

    def result(self, z: Tensor, own_bias: bool) -> Tensor:
        """The call's result for the layer's output ``z``, which holds the bias already or not."""
        if self.bias is not None and not own_bias:
            z = z + (self.bias if self.form.geometry is None else self.bias.view(-1, *(z.dim() - 2) * [1]))
        return z.mT if self.columns else z


#: for a tensor that holds a weight, what it is of it; None for others
Known = Callable[[Any], "Seen | None"]


def applied(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], known: Known) -> Applied | None:
    """What a call applies, None where it is of no form that can be solved."""
    read = _READERS.get(function)
    return None if read is None else read(function, known, *args, **kwargs)


def transposes(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call transposes a matrix."""
    if function in _SWAPS:
        return len(args) == 3 and {args[1] % 2, args[2] % 2} == {0, 1} and not kwargs
    return function in _TRANSPOSES and len(args) == 1


def layer_of(
    name: str, module: nn.Module, config: TargetSpaceConfig, weight: Tensor, bias: Tensor | None, form: Form
) -> AffineLayer:
    """The layer of a weight.

    Args:
        name: the layer's.
        module: that holds the weight.
        config: the target space's settings.
        weight: the parameter.
        bias: the same, or None.
        form: how the weight is applied.
    """
    if form.geometry is not None:
        return FunctionalConv(name, module, config, weight, bias, form, form.geometry)
    return FunctionalDense(name, module, config, weight, bias, form)


class FunctionalDense(LinearTargets):
    """A dense layer with a weight that is (out, in), or (in, out), or in another shape with the same numbers."""

    by_function = True

    def __init__(
        self,
        name: str,
        module: nn.Module,
        config: TargetSpaceConfig,
        weight: Tensor,
        bias: Tensor | None,
        form: Form,
    ) -> None:
        super().__init__(name, module, config, weight, bias)
        self.form = form
        self.width, self.inputs = self.flat(weight).shape

    def arranged(self, weight: Tensor) -> Tensor:
        """The parameter's value, for a weight (out, in)."""
        return (weight.mT if self.form.transposed else weight).reshape(self.weight.shape)

    def flat(self, weight: Tensor) -> Tensor:
        """The weight (out, in), for the parameter's value."""
        shaped = self.form.shaped(weight)
        return shaped.mT if self.form.transposed else shaped


class FunctionalConv(ConvTargets):
    """A convolution with the options of a call."""

    by_function = True

    def __init__(
        self,
        name: str,
        module: nn.Module,
        config: TargetSpaceConfig,
        weight: Tensor,
        bias: Tensor | None,
        form: Form,
        geometry: Geometry,
    ) -> None:
        AffineLayer.__init__(self, name, module, config, weight, bias)
        self.geometry, self.form = geometry, form
        turned = self.flat(weight)
        self.width, self.inputs = len(turned), turned[0].numel()

    def flat(self, weight: Tensor) -> Tensor:
        """In the shape of a convolution's weight."""
        return self.form.shaped(weight)

    def arranged(self, weight: Tensor) -> Tensor:
        """In the parameter's shape."""
        return weight.reshape(self.weight.shape)


def _linear(function: Any, known: Known, input: Any, weight: Any, bias: Any = None) -> Applied | None:
    return _dense(known, input, weight, bias, transposed=False)


def _product(function: Any, known: Known, input: Any, other: Any) -> Applied | None:
    """Input @ other."""
    if known(other) is not None:
        return _dense(known, input, other, None, transposed=True)
    if not isinstance(other, Tensor) or other.dim() < 2:
        return None
    return _dense(known, other.mT, input, None, transposed=False, columns=True)


def _reflected(function: Any, known: Known, input: Any, other: Any) -> Applied | None:
    return _product(function, known, other, input)


def _sum_of_product(
    function: Any, known: Known, input: Any, mat1: Any, mat2: Any, *, beta: Any = 1, alpha: Any = 1
) -> Applied | None:
    return None if beta != 1 or alpha != 1 else _dense(known, mat1, mat2, input, transposed=True)


def _dense(known: Known, x: Any, weight: Any, bias: Any, *, transposed: bool, columns: bool = False) -> Applied | None:
    found = known(weight)
    plain = isinstance(x, Tensor) and x.dim() > 0 and x.layout == torch.strided and known(x) is None
    if found is None or not plain or len(found.shape) != 2:
        return None
    return Applied(found.weight, Form(transposed != found.transposed, None, found.reshaped), x, bias, columns)


def _convolution(
    function: Any,
    known: Known,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Applied | None:
    found = known(weight)
    if found is None or found.transposed:
        return None
    kernel = tuple(found.shape[2:])
    stride, dilation = _each(stride, kernel), _each(dilation, kernel)
    padding = padding if isinstance(padding, str) else _each(padding, kernel)
    geometry = Geometry.with_padding(kernel, stride, dilation, padding, groups)
    return Applied(found.weight, Form(geometry=geometry, shape=found.reshaped), input, bias)


def _each(value: Any, kernel: Sequence[int]) -> tuple[int, ...]:
    """A size for each axis."""
    if isinstance(value, int):
        return tuple(repeat(value, len(kernel)))
    return tuple(value) if len(value) == len(kernel) else tuple(repeat(value[0], len(kernel)))


_READERS: dict[Any, Callable[..., Applied | None]] = {
    functional.linear: _linear,
    **dict.fromkeys((torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__), _product),
    Tensor.__rmatmul__: _reflected,
    **dict.fromkeys((torch.addmm, Tensor.addmm), _sum_of_product),
    **dict.fromkeys((functional.conv1d, functional.conv2d, functional.conv3d), _convolution),
}
_TRANSPOSES: set[Any] = {torch.t, Tensor.t, Tensor.T.__get__, Tensor.mT.__get__}  # type: ignore[attr-defined]
_SWAPS: set[Any] = {torch.transpose, Tensor.transpose, torch.swapaxes, Tensor.swapaxes}
#: give the same numbers in the same order in another shape
_VIEWS: set[Any] = {
    *(torch.squeeze, Tensor.squeeze, torch.unsqueeze, Tensor.unsqueeze, torch.reshape, Tensor.reshape),
    *(Tensor.view, Tensor.view_as, Tensor.reshape_as, torch.flatten, Tensor.flatten, torch.unflatten, Tensor.unflatten),
    *(Tensor.contiguous,),
}
