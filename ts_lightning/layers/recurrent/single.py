"""nn.RNNCell, nn.LSTMCell and nn.GRUCell: recurrent layers of one step, whose steps are the uses of a loop."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ts_lightning.config import TargetSpaceConfig
from ts_lightning.layers.base import TargetLayer, Visit
from ts_lightning.layers.recurrent.cells import GRULayer, LSTMLayer, RNNLayer
from ts_lightning.layers.recurrent.layer import RecurrentLayer
from ts_lightning.layers.recurrent.module import Passed
from ts_lightning.layers.recurrent.sequences import Dense, Sequences


class _Cell(RecurrentLayer):
    """A cell, whose sequences have one step: (1, samples, ...)."""

    @classmethod
    def solves(cls, module: nn.Module, base: type[nn.Module]) -> bool:
        """Whether all its weights are parameters of its own; of a subclass's forward its call of ``base``'s is seen."""
        assert isinstance(module, nn.RNNCellBase)
        names = ("weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if module.bias else ()))
        return all(module._parameters.get(name) is not None for name in names)

    @classmethod
    def of(cls, name: str, module: nn.Module, config: TargetSpaceConfig) -> list[RecurrentLayer]:
        """One layer."""
        assert isinstance(module, nn.RNNCellBase)
        return [cls(name, module, config, "")]

    @staticmethod
    def forward(layers: Sequence[TargetLayer], visit: Visit, input: Tensor, hx: Any = None) -> Any:
        """The cell's forward: its next state h, or (h, c) of an LSTM."""
        (layer,) = layers
        cell: Any = layer.module
        with_memory, single = isinstance(cell, nn.LSTMCell), input.dim() == 1
        x = input.unsqueeze(0) if single else input
        if hx is None:
            zeros = x.new_zeros(len(x), cell.hidden_size)
            states: tuple[Tensor, ...] = (zeros, zeros) if with_memory else (zeros,)
        else:
            given = tuple(hx) if with_memory else (hx,)
            states = tuple(state.unsqueeze(0) for state in given) if single else given
        _, last = visit(layer, Sequences(x.unsqueeze(0), states, Dense(0)))
        found = tuple(state.squeeze(0) for state in last) if single else last
        return found if with_memory else found[0]

    def run(self, x: Sequences, values: Sequence[Tensor]) -> Passed:
        """PyTorch's own cell; a run over sequences of one step takes several times as long."""
        (data,) = x.data
        states = self.step(data, x.initial, [value.to(data.dtype) for value in values])
        return states[0].unsqueeze(0), states

    def forced(self, x: Sequences, part: Tensor) -> Passed:
        """The states along the targets."""
        states = tuple(state.to(x.data.dtype) for state in self.forced_step(x.initial, part[0]))
        return states[0].unsqueeze(0), states

    @abstractmethod
    def forced_step(self, states: tuple[Tensor, ...], part: Tensor) -> tuple[Tensor, ...]:
        """The states h (and c) behind those given, for what :meth:`forced_by` has (samples, ...) of the targets."""

    @abstractmethod
    def step(self, data: Tensor, states: tuple[Tensor, ...], weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The states h (and c) behind those given, for inputs (samples, inputs)."""


class RNNCellLayer(_Cell, RNNLayer):
    """nn.RNNCell."""

    def forced_by(self, targets: Tensor) -> Tensor:
        """The states h."""
        return self.activated(targets)

    def forced_step(self, states: tuple[Tensor, ...], part: Tensor) -> tuple[Tensor, ...]:
        """A copy, since the forward may change it in place."""
        return (part.clone(),)

    def step(self, data: Tensor, states: tuple[Tensor, ...], weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """torch.rnn_tanh_cell or torch.rnn_relu_cell."""
        function = torch.rnn_tanh_cell if self.module.nonlinearity == "tanh" else torch.rnn_relu_cell
        return (function(data, *states, *weights),)


class LSTMCellLayer(_Cell, LSTMLayer):
    """nn.LSTMCell."""

    def forced_by(self, targets: Tensor) -> Tensor:
        """sigmoid(f), sigmoid(i) tanh(g) and sigmoid(o)."""
        i, f, g, o = (self.unit * targets).chunk(4, -1)
        return torch.cat([torch.sigmoid(f + self.forget_bias), torch.sigmoid(i) * torch.tanh(g), torch.sigmoid(o)], -1)

    def forced_step(self, states: tuple[Tensor, ...], part: Tensor) -> tuple[Tensor, ...]:
        """c, and h of it."""
        f, added, o = part.chunk(3, -1)
        c = torch.addcmul(added, f, states[1].to(part.dtype))
        return o * torch.tanh(c), c

    def step(self, data: Tensor, states: tuple[Tensor, ...], weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """torch.lstm_cell."""
        return torch.lstm_cell(data, states, *weights)


class GRUCellLayer(_Cell, GRULayer):
    """nn.GRUCell."""

    def forced_by(self, targets: Tensor) -> Tensor:
        """sigmoid(z), and (1 - sigmoid(z)) tanh(n_x + sigmoid(r) n_h)."""
        r, z, nx, nh = (self.unit * targets).chunk(4, -1)
        keep = torch.sigmoid(z)
        return torch.cat([keep, (1 - keep) * torch.tanh(torch.addcmul(nx, torch.sigmoid(r), nh))], -1)

    def forced_step(self, states: tuple[Tensor, ...], part: Tensor) -> tuple[Tensor, ...]:
        """The output."""
        keep, added = part.chunk(2, -1)
        return (torch.addcmul(added, keep, states[0].to(part.dtype)),)

    def step(self, data: Tensor, states: tuple[Tensor, ...], weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """torch.gru_cell."""
        return (torch.gru_cell(data, *states, *weights),)
