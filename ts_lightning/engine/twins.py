"""Copies of weights that targets are about to start anew: of a teacher, or of a network that follows slowly."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence

import torch
from torch import nn

from ts_lightning.engine.names import is_matrix, plain_name
from ts_lightning.layers.base import TargetLayer


def say_copies(model: nn.Module, layers: Sequence[TargetLayer], kept: Collection[str]) -> None:
    """Warn of parameters that hold the very numbers of weights which are started anew, and will hold others.

    Args:
        model: the model.
        layers: those of its layers that are solved.
        kept: the names of those that start from their weights.
    """
    solved = {id(parameter) for layer in layers for parameter in layer.wholes}
    others = [(plain_name(name), p) for name, p in model.named_parameters() if id(p) not in solved and is_matrix(p)]
    found: dict[str, str] = {}
    for layer in layers:
        weight = layer.parameters[0]
        if layer.name in kept or bool((weight == weight.reshape(-1)[0]).all()):
            continue
        for name, other in others:
            alike = (other.shape, other.dtype, other.device) == (weight.shape, weight.dtype, weight.device)
            if alike and torch.equal(other, weight):
                found[layer.module_name] = name
    if found:
        pairs = [f"{name} ({other})" for name, other in found.items()]
        listed = ", ".join(pairs[:5]) + (", ..." if len(pairs) > 5 else "")
        warnings.warn(
            f"Copies of weights that targets start anew: {listed}. The copies stay as they are, and are no longer "
            f"equal to the layers. Use init='weights' to keep these, or make the copies behind the start, in "
            f"on_train_start().",
            stacklevel=4,
        )
