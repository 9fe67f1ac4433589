"""The three recurrent cells: states along targets, and how their weights make up systems A W = T.

nn.RNN and nn.LSTM are one system each, [x, h, 1] -> all gates; nn.GRU is three, [x, h, 1] -> (r, z), [x, 1] -> n_x,
[h, 1] -> n_h, so that each is linear, with n = tanh(n_x + r n_h). PyTorch's two biases are redundant but in n: the
solved one is bias_ih and bias_hh is zero, except for n_h, whose bias is bias_hh's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ts_lightning.config import TargetSpaceConfig
from ts_lightning.layers.recurrent import Passed, RecurrentLayer
from ts_lightning.layers.sequences import Dense, Sequences, scan


def _matrix(*parts: Tensor, ones: bool) -> Tensor:
    return torch.cat([*parts, parts[0].new_ones(len(parts[0]), 1)] if ones else parts, -1)


def _fused(function: Any, x: Sequences, initial: Any, values: Sequence[Tensor], ones: bool) -> Any:
    """One of torch._VF's recurrent functions on one layer and direction."""
    weights = [value.to(x.data.dtype) for value in values]
    options = (ones, 1, 0.0, True, False)  # biases, layers, dropout, training, bidirectional
    if isinstance(x.layout, Dense):
        return function(x.data, initial, weights, *options, x.layout.dim == 1)
    return function(x.data, x.layout.batch_sizes, initial, weights, *options)


class _OneSystem(RecurrentLayer):
    """[x, h, 1] -> all gates."""

    forget_bias = 0.0

    def matrices(self, x: Tensor, h: Tensor) -> list[Tensor]:
        """A, (rows, inputs + hidden + 1)."""
        return [_matrix(x, h, ones=self.ones)]

    def split(self, targets: Tensor) -> list[Tensor]:
        """All targets."""
        return [targets]

    def pack(self, solutions: Sequence[Tensor]) -> list[Tensor]:
        """weight_ih, weight_hh, bias_ih, bias_hh."""
        (w,) = solutions
        weights = [w[: self.inputs].mT, w[self.inputs : self.inputs + self.hidden].mT]
        return [*weights, self._shifted(w[-1], self.forget_bias), torch.zeros_like(w[-1])] if self.ones else weights

    def unpack(self, values: Sequence[Tensor]) -> list[Tensor]:
        """W, (inputs + hidden + 1, gates x hidden)."""
        bias = [self._shifted(values[2] + values[3], -self.forget_bias).unsqueeze(0)] if self.ones else []
        return [torch.cat([values[0].mT, values[1].mT, *bias])]

    def _shifted(self, gates: Tensor, by: float) -> Tensor:
        """With ``by`` added to the forget gate."""
        return gates


class RNNLayer(_OneSystem):
    """nn.RNN, h_t = tanh(T_t) or relu(T_t)."""

    blocks: ClassVar[int] = 1

    def states(self, x: Sequences, targets: Tensor) -> tuple[Tensor, ...]:
        """The outputs h."""
        return (torch.tanh(targets) if self.module.nonlinearity == "tanh" else torch.relu(targets),)

    def run(self, x: Sequences, values: Sequence[Tensor]) -> Passed:
        """torch.rnn_tanh or torch.rnn_relu."""
        function = torch.rnn_tanh if self.module.nonlinearity == "tanh" else torch.rnn_relu
        output, last = _fused(function, x, x.initial[0].unsqueeze(0), values, self.ones)
        return output, (last.squeeze(0),)


class LSTMLayer(_OneSystem):
    """nn.LSTM, gates i, f, g, o; c_t = sigmoid(f) c_(t-1) + sigmoid(i) tanh(g), h = sigmoid(o) tanh(c)."""

    blocks: ClassVar[int] = 4

    def __init__(self, name: str, module: nn.RNNBase, config: TargetSpaceConfig, suffix: str) -> None:
        super().__init__(name, module, config, suffix)
        self.forget_bias = config.forget_bias if module.bias else 0.0

    def states(self, x: Sequences, targets: Tensor) -> tuple[Tensor, ...]:
        """The outputs h and the memory c."""
        i, f, g, o = targets.chunk(4, -1)
        c = scan(torch.sigmoid(f + self.forget_bias), torch.sigmoid(i) * torch.tanh(g), x.initial[1], x.layout)
        return torch.sigmoid(o) * torch.tanh(c), c

    def run(self, x: Sequences, values: Sequence[Tensor]) -> Passed:
        """torch.lstm."""
        initial = tuple(state.unsqueeze(0) for state in x.initial)
        output, h, c = _fused(torch.lstm, x, initial, values, self.ones)
        return output, (h.squeeze(0), c.squeeze(0))

    def _shifted(self, gates: Tensor, by: float) -> Tensor:
        if by == 0:
            return gates
        i, f, g, o = gates.chunk(4, -1)
        return torch.cat([i, f + by, g, o], -1)


class GRULayer(RecurrentLayer):
    """nn.GRU, gates r, z, n_x, n_h; h_t = sigmoid(z) h_(t-1) + (1 - sigmoid(z)) tanh(n_x + sigmoid(r) n_h)."""

    blocks: ClassVar[int] = 4

    def states(self, x: Sequences, targets: Tensor) -> tuple[Tensor, ...]:
        """The outputs h."""
        r, z, nx, nh = targets.chunk(4, -1)
        keep = torch.sigmoid(z)
        new = torch.tanh(nx + torch.sigmoid(r) * nh)
        return (scan(keep, new - keep * new, x.initial[0], x.layout),)

    def run(self, x: Sequences, values: Sequence[Tensor]) -> Passed:
        """torch.gru."""
        output, last = _fused(torch.gru, x, x.initial[0].unsqueeze(0), values, self.ones)
        return output, (last.squeeze(0),)

    def matrices(self, x: Tensor, h: Tensor) -> list[Tensor]:
        """[x, h, 1], [x, 1] and [h, 1]."""
        return [_matrix(x, h, ones=self.ones), _matrix(x, ones=self.ones), _matrix(h, ones=self.ones)]

    def split(self, targets: Tensor) -> list[Tensor]:
        """(r, z), n_x and n_h."""
        return list(torch.split(targets, [2 * self.hidden, self.hidden, self.hidden], -1))

    def pack(self, solutions: Sequence[Tensor]) -> list[Tensor]:
        """weight_ih, weight_hh, bias_ih, bias_hh."""
        rz, nx, nh = solutions
        wx = torch.cat([rz[: self.inputs], nx[: self.inputs]], 1).mT
        wh = torch.cat([rz[self.inputs : self.inputs + self.hidden], nh[: self.hidden]], 1).mT
        if not self.ones:
            return [wx, wh]
        return [wx, wh, torch.cat([rz[-1], nx[-1]]), torch.cat([torch.zeros_like(rz[-1]), nh[-1]])]

    def unpack(self, values: Sequence[Tensor]) -> list[Tensor]:
        """The W of the three systems, each (d, m)."""
        gates = 2 * self.hidden
        rz, (nx, nh) = [w[:gates].mT for w in values[:2]], [[w[gates:].mT] for w in values[:2]]
        if self.ones:
            bx, bh = values[2:]
            rz.append((bx + bh)[:gates].unsqueeze(0))
            nx.append(bx[gates:].unsqueeze(0))
            nh.append(bh[gates:].unsqueeze(0))
        return [torch.cat(parts) for parts in (rz, nx, nh)]
