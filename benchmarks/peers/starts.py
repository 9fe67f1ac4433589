"""Starts of weight space: He's, orthogonal ones, and orthogonal ones scaled by data, layer by layer.

Layers are Linear, convolutions and recurrent ones; biases start at 0, and forget gates of an LSTM at 1. On the state
of a recurrent layer He's start is normal with variance 1 / units, the orthogonal one orthogonal, and the one by data
the identity (Le, Jaitly and Hinton, 2015), where the weights on inputs alone are scaled.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

Start = Literal["he", "orthogonal", "data"]
STARTS: tuple[Start, ...] = ("data", "orthogonal", "he")

_SLOPE = 0.2  # of the leaky activation
_SAMPLES = 200


@torch.no_grad()
def start(model: nn.Module, how: Start, activation: Literal["tanh", "relu", "leaky_relu"], x: Tensor) -> None:
    """Draw the weights anew.

    Args:
        model: its layers' weights are replaced.
        how: the start.
        activation: what gains are for; data scale to a standard deviation of 0.6 before tanh and of 1 before others.
        x: training inputs, of which the start by data sees the first 200.
    """
    gain = nn.init.calculate_gain(activation, _SLOPE if activation == "leaky_relu" else None)
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            if how == "he":
                nn.init.kaiming_normal_(module.weight, a=_SLOPE if activation == "leaky_relu" else 0.0)
            else:
                nn.init.orthogonal_(module.weight, gain)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.RNNBase):
            _start_recurrent(module, how)
    if how == "data":
        _scale(model, 0.6 if activation == "tanh" else 1.0, x[:_SAMPLES])


def _start_recurrent(module: nn.RNNBase, how: Start) -> None:
    units = module.hidden_size
    for name, parameter in module.named_parameters():
        if name.startswith("bias"):
            nn.init.zeros_(parameter)
            if isinstance(module, nn.LSTM) and name.startswith("bias_ih"):
                parameter[units : 2 * units] = 1  # gates stand in the order i, f, g, o
            continue
        for gate in torch.split(parameter, units):
            if how == "he":
                nn.init.normal_(gate, std=gate.shape[1] ** -0.5)
            elif how == "data" and name.startswith("weight_hh"):
                nn.init.eye_(gate)
            else:
                nn.init.orthogonal_(gate)


def _scale(model: nn.Module, std: float, x: Tensor) -> None:
    """Rescale each layer in the order of a forward, so that its outputs have this standard deviation."""

    def by_output(module: nn.Linear | nn.Conv2d, _: Any, out: Tensor) -> Tensor:
        factor = std / float(out.std().clamp_min(1e-6))
        module.weight.mul_(factor)
        return out * factor

    def by_input(module: nn.RNNBase, given: tuple[Tensor, ...]) -> None:
        for name, weight in module.named_parameters():
            if name == "weight_ih_l0":
                weight.mul_(std / float((given[0] @ weight.T).std().clamp_min(1e-6)))

    hooks: list[Any] = []
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            hooks.append(module.register_forward_hook(by_output))
        elif isinstance(module, nn.RNNBase):
            hooks.append(module.register_forward_pre_hook(by_input))
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
