"""The recurrent layer of the recipes: its kind by name, and a start that gives weight space its best chance."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

Cell = Literal["rnn", "lstm", "gru"]
_LAYERS: dict[str, type[nn.RNN] | type[nn.LSTM] | type[nn.GRU]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


def recurrent(cell: Cell, inputs: int, units: int, layers: int = 1) -> nn.RNN | nn.LSTM | nn.GRU:
    """One recurrent layer or a stack of them, batch first.

    Every gate starts with Xavier weights on the inputs and orthogonal ones on the state; biases are 0, but for an
    LSTM's forget gate, where they are 1.

    Args:
        cell: ``rnn`` (tanh), ``lstm`` or ``gru``.
        inputs: features at each step.
        units: the width of the state.
        layers: how many, each on the states of the one below.
    """
    layer = _LAYERS[cell](inputs, units, layers, batch_first=True)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.startswith("bias"):
                nn.init.zeros_(parameter)
                if cell == "lstm" and name.startswith("bias_ih"):  # gates stand in the order i, f, g, o
                    parameter[units : 2 * units] = 1
                continue
            for gate in torch.split(parameter, units):
                start = nn.init.orthogonal_ if name.startswith("weight_hh") else nn.init.xavier_uniform_
                # in half precision there is no orthogonal start
                gate.copy_(start(gate.to(torch.promote_types(gate.dtype, torch.float32))))
    return layer
