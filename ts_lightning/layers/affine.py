"""Layers of one weight and perhaps a bias, whose targets are their outputs: what linear and conv have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ts_lightning.config import TargetSpaceConfig
from ts_lightning.layers.base import TargetLayer, Visit
from ts_lightning.layers.binding import Size
from ts_lightning.layers.loop import LoopableLayer
from ts_lightning.layers.noise import noisy_columns
from ts_lightning.layers.reproduce import START_DAMPING


class AffineLayer(LoopableLayer):
    """A layer of one weight and perhaps a bias, whose targets are its outputs.

    Args:
        name: the layer's name.
        module: the module that it belongs to.
        config: the target space's settings.
        weight: (out, ...).
        bias: (out,), or None.
    """

    def __init__(self, name: str, module: nn.Module, config: TargetSpaceConfig, weight: Any, bias: Any = None) -> None:
        super().__init__(name, module, config, weight.shape[0])
        self.weight, self.bias = weight, bias
        self.inputs = weight[0].numel()  # columns of A but for the bias's
        self.parameters = [weight] if bias is None else [weight, bias]

    @classmethod
    def solves(cls, module: nn.Module, base: type[nn.Module]) -> bool:
        """Whether the module computes what ``base`` does, and holds weight and bias as parameters of its own."""
        return super().solves(module, base) and module._parameters.get("bias") is getattr(module, "bias", None)

    @classmethod
    def of(cls, name: str, module: nn.Module, config: TargetSpaceConfig) -> Sequence[TargetLayer]:
        """One layer, of the module's ``weight`` and ``bias``."""
        return [cls(name, module, config, module.weight, getattr(module, "bias", None))]

    @staticmethod
    def forward(layers: Sequence[TargetLayer], visit: Visit, input: Tensor) -> Any:
        """The layer on the module's input."""
        (layer,) = layers
        assert isinstance(layer, AffineLayer)
        return layer.visited(visit, input)

    def visited(self, visit: Visit, x: Tensor) -> Any:
        """What ``visit`` gives; an input of one sample, without a dimension of samples, is a batch of one."""
        if isinstance(x, Tensor) and x.dim() == self.sample_dims:
            return visit(self, x.unsqueeze(0)).squeeze(0)
        return visit(self, x)

    @property
    def sample_dims(self) -> int:
        """How many dimensions the input of one sample has, where there is nothing but features."""
        return 1

    def sizes(self) -> list[Size]:
        """One system."""
        places, rows = self.binding.places.numel(), self.binding.shape.numel() // self.width
        return [Size(1, places, rows, self.inputs + (self.bias is not None), self.width)]

    def expect_noise(self, x: Tensor, noise_of: Callable[[Tensor], float]) -> None:
        """The same noise on all columns of A but the bias's."""
        self.solver.noise = noisy_columns(noise_of(x), self.inputs, self.bias is not None, self.weight)

    @abstractmethod
    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The layer's output on input ``x`` with these weights."""

    @abstractmethod
    def select(self, z: Tensor) -> Tensor:
        """The entries of the layer's output ``z`` that have targets, in the targets' shape."""

    def produce(self, x: Tensor, values: Sequence[Tensor]) -> Tensor:
        """The layer's output."""
        return self.apply(x, *values)

    def achieved(self, x: Tensor, values: Sequence[Tensor]) -> Tensor:
        """The outputs at the solved rows."""
        return self.select(self.apply(x, *values))

    def fits_loop(self, x: Tensor) -> bool:
        """Whether there is a dimension of samples."""
        return isinstance(x, Tensor) and x.dim() > 1

    def joined(self, xs: Sequence[Tensor]) -> Tensor:
        """The inputs one after the other along the samples."""
        return torch.cat(list(xs))

    def forced(self, x: Tensor, part: Tensor) -> Tensor:
        """The targets themselves."""
        return (part * self.unit).to(x.dtype)

    @abstractmethod
    def flat(self, weight: Tensor) -> Tensor:
        """The weight (out, in, ...), for one as its Parameter holds it."""

    @abstractmethod
    def arranged(self, weight: Tensor) -> Tensor:
        """The weight as its Parameter holds it, for one (out, in, ...)."""

    def loop_values(self, x: Tensor, std: float, generator: torch.Generator) -> list[Tensor]:
        """Weight and bias: orthogonal for inputs and for states, the former rescaled to ``std``."""
        whole = torch.zeros_like(self.flat(self.weight), dtype=torch.float64)
        states = None if self.loop is None else self.loop.states
        if states is None or len(states) != whole.shape[1]:
            states = torch.zeros(whole.shape[1], dtype=torch.bool)
        parts = []
        for columns in (~states, states):
            drawn = torch.zeros(whole.shape, dtype=torch.float64)
            if columns.any():
                drawn[:, columns] = nn.init.orthogonal_(drawn[:, columns], generator=generator)
            parts.append(self.arranged(drawn.to(x.device)))
        bias = [] if self.bias is None else [parts[0].new_zeros(self.bias.shape)]
        spread = float(self.apply(x.double(), parts[0], *bias).std(correction=0))
        return [parts[0] * (std / spread if spread > 0 else 1.0) + parts[1], *bias]

    def drawn(self, generator: torch.Generator) -> Tensor:
        """The weight of an orthogonal layer, as its Parameter holds it, in float64."""
        weight = torch.empty(self.weight.shape, dtype=torch.float64)
        matrix = weight if weight.dim() > 1 else weight.unsqueeze(0)
        return nn.init.orthogonal_(matrix, generator=generator).view_as(weight)

    def start(self, x: Tensor, std: float, generator: torch.Generator) -> Tensor:
        """Initial targets: the outputs of an orthogonal layer, rescaled to the standard deviation ``std``.

        The starting weights are those of layer-sequential unit variance (Mishkin and Matas, ICLR 2016). The targets
        make up for the shrinkage of the ridge, but for directions of A whose variance is below a tenth of it.
        """
        weight = self.drawn(generator).to(x.device)
        bias = [] if self.bias is None else [weight.new_zeros(self.bias.shape)]
        spread = float(self.select(self.apply(x.double(), weight, *bias)).std(correction=0))
        weight = weight * (std / spread if spread > 0 else 1.0)
        return self.reproduce(x, [weight, *bias], START_DAMPING)[0]
