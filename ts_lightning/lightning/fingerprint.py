"""Fingerprints of solved weights: whether a checkpoint's weights are still those that it was written with.

Solved again from the targets, weights may differ by rounding on another device or with another number of processes. So
the weights that are found are compared with what was written and not with a solution, and to the last bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ts_lightning.engine.names import plain_name
from ts_lightning.engine.space import TargetSpace
from ts_lightning.engine.targets.trained import copies_of

_DTYPES = {str(dtype): dtype for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)}


def fingerprints(space: TargetSpace) -> dict[str, dict[str, str]]:
    """Fingerprints of each solved parameter by its name and precision: its own, and float32 below float64.

    Parameters that the model has no more have none, and the layer's name stands for them.
    """
    names = {id(parameter): plain_name(name) for name, parameter in space.model.named_parameters()}
    found: dict[str, dict[str, str]] = {}
    for layer in space.layers:
        for parameter in layer.wholes:
            if id(parameter) not in names:
                found[layer.module_name] = {}
                continue
            dtypes = {parameter.dtype, min(parameter.dtype, torch.float32, key=lambda dtype: dtype.itemsize)}
            found[names[id(parameter)]] = {str(d): fingerprint(parameter.to(d)) for d in dtypes}
    return found


def differing(model: nn.Module, written: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The names of parameters that are not, to the last bit, those that the fingerprints were taken of."""
    found = {plain_name(name): parameter for name, parameter in model.named_parameters()}
    return [name for name, numbers in written.items() if name not in found or not _same(found[name], numbers)]


def written_since(space: TargetSpace, end: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """What was written to solved weights behind the last solve of a fit that has ended, as a state says it.

    Args:
        space: the fit's, which was released.
        end: the fingerprints of the weights by then.
    """
    written = space.cascade.outside.state_dict()
    parameters = {plain_name(name): parameter for name, parameter in space.model.named_parameters()}
    changed = {id(parameters[name]) for name in differing(space.model, end) if name in parameters}
    names = {layer.name for layer in space.layers if any(id(p) in changed for p in layer.wholes)}
    names.update(written["weights"])
    return {**written, "weights": copies_of(layer for layer in space.layers if layer.name in names)}


def fingerprint(tensor: Tensor) -> str:
    """What changes with any bit of a tensor's values."""
    values = tensor.detach().reshape(-1).contiguous().view(torch.uint8)
    return hashlib.blake2b(values.cpu().numpy().data, digest_size=16).hexdigest()


def _same(parameter: Tensor, written: Mapping[str, str]) -> bool:
    """Whether one of the fingerprints is the parameter's, in a precision that holds its values exactly."""
    for name, number in written.items():
        rounded = parameter.to(_DTYPES[name])
        if torch.equal(rounded.to(parameter.dtype), parameter.detach()) and fingerprint(rounded) == number:
            return True
    return False
