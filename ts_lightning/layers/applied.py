"""One call of a function that applies a weight, and the form in which it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ts_lightning.layers.conv.patches import Geometry
from ts_lightning.layers.seen import Arrangement, Seen


def unchanged(tensor: Tensor) -> Tensor:
    """The same tensor."""
    return tensor


@dataclass(frozen=True)
class Form:
    """How a function applies a weight; calls of one form are uses of one layer.

    Attributes:
        arrangement: of the parameter's numbers, for a layer's weight (out, in), or (out, in / groups, *kernel).
        geometry: of a convolution; None for a dense layer.
        scaled: whether the weight is multiplied with a constant first.
    """

    arrangement: Arrangement
    geometry: Geometry | None = None
    scaled: bool = False

    @classmethod
    def plain(cls, weight: Tensor) -> Form:
        """That of a dense layer with this weight (out, in)."""
        return cls(Arrangement(tuple(weight.shape)))


@dataclass(frozen=True)
class Applied:
    """One call.

    Attributes:
        seen: the weight, as the function is given it.
        form: how it is applied.
        x: what it is applied to.
        bias: (out,) that is added to the layer's output, and may be the layer's own; None for nothing.
        take: gives the layer's input for x.
        give: gives the call's result for the layer's output.
    """

    seen: Seen
    form: Form
    x: Tensor
    bias: Tensor | None = None
    take: Callable[[Tensor], Tensor] = unchanged
    give: Callable[[Tensor], Tensor] = unchanged

    @classmethod
    def of(
        cls,
        seen: Seen,
        arrangement: Arrangement,
        x: Tensor,
        bias: Tensor | None,
        *,
        geometry: Geometry | None = None,
        take: Callable[[Tensor], Tensor] = unchanged,
    ) -> Applied:
        """A call that applies what was seen of a weight, in an arrangement of the parameter's numbers."""
        return cls(seen, Form(arrangement, geometry, seen.factor is not None), x, bias, take)

    @property
    def weight(self) -> Tensor:
        """The parameter."""
        return self.seen.weight

    def then(self, give: Callable[[Tensor], Tensor], added: Any = None) -> Applied:
        """The same call, whose result is what ``give`` makes of the layer's output, with something added to it."""
        if added is None:
            return replace(self, give=give)
        return replace(self, give=lambda z: give(z) + added)

    def result(self, z: Tensor, own_bias: bool) -> Tensor:
        """The call's result for the layer's output ``z``, which holds the bias already or not."""
        if self.bias is not None and not own_bias:
            axes = 0 if self.form.geometry is None else len(self.form.geometry.kernel)
            z = z + self.bias.view(-1, *axes * (1,))
        return self.give(z)
