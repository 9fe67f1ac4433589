"""Random weights of layers, with which a dry run shows what depends on weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ts_lightning.layers.base import TargetLayer


class Draws:
    """Random weights for the layers of one run of a model, the same at all uses of a layer.

    A forward may go on until its numbers come to rest, as an adaptive solver of differential equations or a fixed
    point does. They would never with other weights at each use.

    Args:
        generator: of the random numbers; None for the layers' own weights.
    """

    def __init__(self, generator: torch.Generator | None) -> None:
        self._generator = generator
        self._states: dict[str, Tensor] = {}

    def of(self, layer: TargetLayer) -> list[Tensor]:
        """Values of a layer's parameters, which are drawn again at each use and not kept."""
        generator = self._generator
        if generator is not None and self._states.setdefault(layer.name, state := generator.get_state()) is not state:
            generator = torch.Generator()
            generator.set_state(self._states[layer.name])
        return [random_like(parameter, generator) for parameter in layer.parameters]


def random_weights(layers: Iterable[TargetLayer], generator: torch.Generator) -> dict[str, list[Tensor]]:
    """Values of the parameters of layers, by name."""
    return {layer.name: [random_like(p, generator) for p in layer.parameters] for layer in layers}


def random_like(parameter: Tensor, generator: torch.Generator | None) -> Tensor:
    """Weights at which signals keep their size, whatever a layer starts from; biases stay small.

    Without a generator the parameter itself, so that what forward makes of it is known as trained.
    """
    if generator is None:
        return parameter
    scale = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.1
    return (scale * torch.randn(parameter.shape, generator=generator)).to(parameter)
