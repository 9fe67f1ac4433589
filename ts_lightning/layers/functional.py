"""Weights that a forward reaches through a function, not through their module: dense layers and convolutions.

:func:`applied` reads a call of a function that is linear in a weight, and :func:`layer_of` makes the layer. What a call
adds to its result, a layer has as its bias where it is a parameter, (out,), that all calls share. Dense layers are
read in ``contraction.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from inspect import Signature, signature
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ts_lightning.config import TargetSpaceConfig
from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers.affine import AffineLayer
from ts_lightning.layers.applied import Applied, Form
from ts_lightning.layers.bilinear import products
from ts_lightning.layers.contraction import CONTRACTIONS
from ts_lightning.layers.conv.convolution import ConvTargets
from ts_lightning.layers.conv.patches import Geometry
from ts_lightning.layers.conv.transposed import spread, spread_geometry, turned
from ts_lightning.layers.linear import LinearTargets
from ts_lightning.layers.seen import Known, Seen, nowhere_zero


def applied(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], known: Known) -> Applied | None:
    """What a call of one of :data:`READERS` applies; None where it is of no form that can be solved."""
    read, takes = READERS[function]
    try:
        given = takes.bind(known, *args, **{_NAMES.get(name, name): value for name, value in kwargs.items()})
    except TypeError:  # of an option that is not read, as ``out`` is
        return None
    return read(*given.args, **given.kwargs)


def layer_of(
    name: str, module: nn.Module, config: TargetSpaceConfig, seen: Seen, bias: Tensor | None, form: Form
) -> FunctionalDense | FunctionalConv:
    """The layer of a weight.

    Args:
        name: the layer's.
        module: that holds the weight.
        config: the target space's settings.
        seen: the weight.
        bias: the layer's own, or None.
        form: how the weight is applied.
    """
    kind = FunctionalDense if form.geometry is None else FunctionalConv
    return kind(name, module, config, seen, bias, form)


class FunctionalLayer(AffineLayer):
    """A layer of a weight as a call applies it.

    Attributes:
        form: in which the weight is applied.
        factor: what the weight is multiplied with first; None for nothing.
        masked: whether that came to hold zeros, so that the layer can be solved no more.
    """

    by_function = True
    masked = False

    def __init__(
        self, name: str, module: nn.Module, config: TargetSpaceConfig, seen: Seen, bias: Tensor | None, form: Form
    ) -> None:
        AffineLayer.__init__(self, name, module, config, seen.weight, bias)
        self.form, self.factor = form, seen.factor
        flat = self.flat(seen.weight)
        self.width, self.inputs = len(flat), flat[0].numel()

    def scale(self, factor: float | Tensor | None) -> None:
        """Take a factor of the weight from here on.

        Raises:
            TargetSpaceError: it is zero, or has zeros.
        """
        self.factor = factor
        if factor is None:
            return
        right = nowhere_zero(factor)
        if self.solver.deferred_checks is not None:
            self.solver.deferred_checks.append(torch.as_tensor(right, device=self.weight.device))
        elif not right:
            self.masked = True
            raise TargetSpaceError(
                f"layer '{self.name}': its weight is multiplied by zeros, and was not when training started; targets "
                f"set all of it. Add '{self.module_name}' to exclude."
            )

    def flat(self, weight: Tensor) -> Tensor:
        """The weight as it is applied, (out, in) or (out, in / groups, *kernel), for the parameter's value."""
        factor = self._factor(weight)
        return self.form.arrangement.of(weight if factor is None else weight * factor)

    def arranged(self, weight: Tensor) -> Tensor:
        """The parameter's value."""
        value, factor = self.form.arrangement.back(weight), self._factor(weight)
        return value if factor is None else value / factor

    def _factor(self, weight: Tensor) -> float | Tensor | None:
        factor = self.factor
        return factor.to(weight.device, weight.dtype) if isinstance(factor, Tensor) else factor

    def drawn(self, generator: torch.Generator) -> Tensor:
        """Orthogonal as it is applied, in every group."""
        weight = torch.empty(self.form.arrangement.shape, dtype=torch.float64)
        geometry = self.form.geometry
        alone = geometry is not None and math.prod(geometry.kernel) == 1
        for part in weight.chunk(geometry.groups) if geometry is not None and alone else [weight]:
            nn.init.orthogonal_(part, generator=generator)
        return self.arranged(weight.to(self.weight.device))


class FunctionalDense(FunctionalLayer, LinearTargets):
    """A dense layer."""


class FunctionalConv(FunctionalLayer, ConvTargets):
    """A convolution with the options of a call; also dense layers side by side, as a grouped one of kernel 1."""

    def __init__(
        self, name: str, module: nn.Module, config: TargetSpaceConfig, seen: Seen, bias: Tensor | None, form: Form
    ) -> None:
        super().__init__(name, module, config, seen, bias, form)
        assert form.geometry is not None
        self.geometry = form.geometry


def _convolution(
    known: Known,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Applied | None:
    seen = _only(known, weight, input)
    if seen is None:
        return None
    kernel = tuple(seen.shape[2:])
    stride, dilation = _each(stride, kernel), _each(dilation, kernel)
    padding = padding if isinstance(padding, str) else _each(padding, kernel)
    geometry = Geometry.with_padding(kernel, stride, dilation, padding, groups)
    return Applied.of(seen, seen.arrangement, input, bias, geometry=geometry)


def _transposed_convolution(
    known: Known,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Applied | None:
    seen = _only(known, weight, input)
    if seen is None:
        return None
    kernel = tuple(seen.shape[2:])
    stride, padding, extra, dilation = (_each(value, kernel) for value in (stride, padding, output_padding, dilation))
    geometry = spread_geometry(kernel, dilation, groups)

    def take(x: Tensor) -> Tensor:
        return spread(x, kernel, stride, padding, dilation, extra)

    return Applied.of(seen, turned(seen.arrangement, groups), input, bias, geometry=geometry, take=take)


def _bilinear(known: Known, input1: Any, input2: Any, weight: Any, bias: Any = None) -> Applied | None:
    seen = _only(known, weight, input1, input2)
    if seen is None or len(seen.shape) != 3:
        return None
    matrix = seen.arrangement.reshape(seen.shape[0], seen.shape[1] * seen.shape[2])
    return Applied.of(seen, matrix, input1, bias, take=lambda x: products(x, input2))


def _only(known: Known, weight: Any, *inputs: Any) -> Seen | None:
    """What a weight is seen as; None where it is repeated, or where an input is a weight, too."""
    seen = known(weight)
    several = seen is not None and seen.expanded is not None
    return None if several or any(known(x) is not None for x in inputs) else seen


def _each(value: Any, kernel: Sequence[int]) -> tuple[int, ...]:
    """A size for each axis."""
    if isinstance(value, int):
        return tuple(repeat(value, len(kernel)))
    return tuple(value) if len(value) == len(kernel) else tuple(repeat(value[0], len(kernel)))


#: PyTorch's names of arguments, where the readers of several functions have one of their own
_NAMES = {"mat1": "one", "batch1": "one", "mat2": "other", "batch2": "other", "vec": "other"}
_CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv3d)
_TRANSPOSED = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)
#: what reads a call and what that takes, by the call's function
READERS: dict[Any, tuple[Callable[..., Applied | None], Signature]] = {
    **{function: (read, signature(read)) for function, read in CONTRACTIONS.items()},
    **dict.fromkeys(_CONVOLUTIONS, (_convolution, signature(_convolution))),
    **dict.fromkeys(_TRANSPOSED, (_transposed_convolution, signature(_transposed_convolution))),
    functional.bilinear: (_bilinear, signature(_bilinear)),
}
