"""A model of the zoo: what is put through a default conversion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ts_lightning.engine.running.batches import tensors_in


class Example(NamedTuple):
    """A model in a tiny configuration, with random weights and inputs.

    Attributes:
        model: the model.
        arguments: of its forward on the reference batch, a tuple or a dictionary.
        loss: of the model in training mode; None for the mean square of all its outputs on ``arguments``.
    """

    model: nn.Module
    arguments: Any
    loss: Callable[[nn.Module], Tensor] | None = None


def outputs(model: nn.Module, arguments: Any) -> list[Tensor]:
    """All floating outputs, whatever form they have."""
    found = model(**arguments) if isinstance(arguments, dict) else model(*arguments)
    return [t for t in tensors_in(found) if t.is_floating_point()]


def loss_of(example: Example) -> Tensor:
    """The loss of one training step."""
    if example.loss is not None:
        return example.loss(example.model)
    found = [t for t in outputs(example.model, example.arguments) if t.requires_grad]
    return torch.stack([t.square().mean() for t in found]).sum()


def images(samples: int = 4, channels: int = 3, size: int = 32) -> Tensor:
    """Random images."""
    return torch.randn(samples, channels, size, size)
