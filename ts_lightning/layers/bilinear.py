"""nn.Bilinear: A is the products of the entries of both inputs, [x1 x2', 1]; W is the weight (out, in1 x in2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ts_lightning.layers.base import TargetLayer, Visit
from ts_lightning.layers.linear import LinearTargets


class BilinearTargets(LinearTargets):
    """Targets (..., out), or (rows, out) where rows are sampled, for products (..., in1 x in2) of the inputs."""

    @staticmethod
    def forward(  # type: ignore[override]  # of two inputs
        layers: Sequence[TargetLayer], visit: Visit, input1: Tensor, input2: Tensor
    ) -> Any:
        """The layer on the products of the module's inputs."""
        (layer,) = layers
        return visit(layer, (input1.unsqueeze(-1) * input2.unsqueeze(-2)).flatten(-2))

    def pack(self, w: Tensor) -> list[Tensor]:
        """The values of the parameters for W (d, out)."""
        weight, *bias = super().pack(w)
        return [weight.reshape(self.weight.shape), *bias]

    def unpack(self, values: Sequence[Tensor]) -> Tensor:
        """W for values of the parameters."""
        return super().unpack([values[0].flatten(1), *values[1:]])

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Output (..., out)."""
        return super().apply(x, weight.flatten(1), bias)
