"""The recurrent layer of the recipes: its kind by name, and a start that gives weight space its best chance."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

Cell = Literal["rnn", "lstm", "gru"]
_LAYERS: dict[str, type[nn.RNN] | type[nn.LSTM] | type[nn.GRU]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


def recurrent(cell: Cell, inputs: int, units: int) -> nn.RNN | nn.LSTM | nn.GRU:
    """One recurrent layer, batch first.

    Every gate starts with Xavier weights on the inputs and orthogonal ones on the state; biases are 0, but for an
    LSTM's forget gate, where they are 1.

    Args:
        cell: ``rnn`` (tanh), ``lstm`` or ``gru``.
        inputs: features at each step.
        units: the width of the state.
    """
    layer = _LAYERS[cell](inputs, units, batch_first=True)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.startswith("bias"):
                nn.init.zeros_(parameter)
                continue
            for gate in torch.split(parameter, units):
                (nn.init.orthogonal_ if name.startswith("weight_hh") else nn.init.xavier_uniform_)(gate)
        if cell == "lstm":  # gates stand in the order i, f, g, o
            layer.get_parameter("bias_ih_l0")[units : 2 * units] = 1
    return layer
