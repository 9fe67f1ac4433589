"""Random weights of layers, with which a dry run shows what depends on weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ts_lightning.layers.base import TargetLayer


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
