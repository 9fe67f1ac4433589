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
        assert isinstance(layer, LinearTargets)
        return layer.visited(visit, products(input1, input2))

    def arranged(self, weight: Tensor) -> Tensor:
        """The weight (out, in1, in2)."""
        return weight.reshape(self.weight.shape)

    def flat(self, weight: Tensor) -> Tensor:
        """The weight (out, in1 x in2)."""
        return weight.flatten(1)


def products(input1: Tensor, input2: Tensor) -> Tensor:
    """All products of an entry of the first input and one of the second, (..., in1 x in2)."""
    return (input1.unsqueeze(-1) * input2.unsqueeze(-2)).flatten(-2)
