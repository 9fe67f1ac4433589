"""The three recurrent cells: states along targets, and which weights solve for which gates.

nn.RNN and nn.LSTM are one system, [x, 1, h] -> all gates; nn.GRU is three, [x, 1, h] -> (r, z), [x, 1] -> n_x,
[1, h] -> n_h, so that each is linear, with n = tanh(n_x + r n_h). PyTorch's two biases are redundant but in n: the
solved one is bias_ih and bias_hh is zero, except for n_h, whose bias is bias_hh's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ts_lightning.config import TargetSpaceConfig
from ts_lightning.layers.recurrent.gates import gru_states, lstm_states
from ts_lightning.layers.recurrent.kernels import gru_run, has_run, rnn_run
from ts_lightning.layers.recurrent.layer import RecurrentLayer
from ts_lightning.layers.recurrent.module import Passed
from ts_lightning.layers.recurrent.sequences import Dense, Sequences
from ts_lightning.ridge.primal import WHOLE, Block


def _fused(function: Any, x: Sequences, initial: Any, values: Sequence[Tensor], ones: bool) -> Any:
    """One of torch._VF's recurrent functions on one layer and direction."""
    weights = [value.to(x.data.dtype) for value in values]
    if x.data.is_cuda:  # cuDNN reads one piece of memory, and makes it of others at every call, with a warning
        flat = torch.cat([value.flatten() for value in weights])
        parts = torch.split(flat, [value.numel() for value in weights])
        weights = [part.view(value.shape) for part, value in zip(parts, weights, strict=True)]
    options = (ones, 1, 0.0, True, False)  # biases, layers, dropout, training, bidirectional
    if isinstance(x.layout, Dense):
        return function(x.data, initial, weights, *options, x.layout.dim == 1)
    return function(x.data, x.layout.batch_sizes, initial, weights, *options)


class _OneSystem(RecurrentLayer):
    """[x, 1, h] -> all gates."""

    forget_bias = 0.0

    @property
    def blocks(self) -> list[Block]:
        """All of A gives all of the targets."""
        return [WHOLE]

    def pack(self, w: Tensor) -> list[Tensor]:
        """weight_ih, weight_hh, bias_ih, bias_hh."""
        weights = [w[: self.inputs].mT, w[-self.state :].mT]
        if not self.ones:
            return weights
        bias = w[self.inputs]
        return [*weights, self._shifted(bias, self.forget_bias), torch.zeros_like(bias)]

    def unpack(self, values: Sequence[Tensor]) -> Tensor:
        """W (inputs + 1 + hidden, gates x hidden)."""
        bias = [self._shifted(values[2] + values[3], -self.forget_bias).unsqueeze(0)] if self.ones else []
        return torch.cat([values[0].mT, *bias, values[1].mT])

    def _shifted(self, gates: Tensor, by: float) -> Tensor:
        """With ``by`` added to the forget gate."""
        return gates


class RNNLayer(_OneSystem):
    """nn.RNN, h_t = tanh(T_t) or relu(T_t)."""

    gates: ClassVar[int] = 1

    def states(self, x: Sequences, targets: Tensor) -> tuple[Tensor, ...]:
        """The outputs h."""
        return (self.activated(targets),)

    def activated(self, targets: Tensor) -> Tensor:
        """The outputs h, which hang on nothing but the targets."""
        wanted = targets * self.unit
        return torch.tanh(wanted) if self.module.nonlinearity == "tanh" else torch.relu(wanted)

    def run(self, x: Sequences, values: Sequence[Tensor]) -> Passed:
        """torch.rnn_tanh or torch.rnn_relu, or what is faster."""
        if has_run(x):
            h = rnn_run(x, self.unpack(values), self.module.nonlinearity == "relu")
            return h, (x.layout.last(h),)
        function = torch.rnn_tanh if self.module.nonlinearity == "tanh" else torch.rnn_relu
        output, last = _fused(function, x, x.initial[0].unsqueeze(0), values, self.ones)
        return output, (last.squeeze(0),)


class LSTMLayer(_OneSystem):
    """nn.LSTM, gates i, f, g, o; c_t = sigmoid(f) c_(t-1) + sigmoid(i) tanh(g), h = sigmoid(o) tanh(c)."""

    gates: ClassVar[int] = 4

    def __init__(self, name: str, module: nn.RNNBase, config: TargetSpaceConfig, suffix: str) -> None:
        super().__init__(name, module, config, suffix)
        self.forget_bias = config.forget_bias if module.bias else 0.0

    def states(self, x: Sequences, targets: Tensor) -> tuple[Tensor, ...]:
        """The outputs h and the memory c."""
        return lstm_states(targets, x.initial[1], x.layout, self.unit, self.forget_bias)

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

    gates: ClassVar[int] = 4

    def states(self, x: Sequences, targets: Tensor) -> tuple[Tensor, ...]:
        """The outputs h."""
        return (gru_states(targets, x.initial[0], x.layout, self.unit),)

    def run(self, x: Sequences, values: Sequence[Tensor]) -> Passed:
        """torch.gru, or what is faster."""
        if has_run(x):
            h = gru_run(x, self.unpack(values))
            return h, (x.layout.last(h),)
        output, last = _fused(torch.gru, x, x.initial[0].unsqueeze(0), values, self.ones)
        return output, (last.squeeze(0),)

    @property
    def blocks(self) -> list[Block]:
        """[x, 1, h] for r and z, [x, 1] for n_x and [1, h] for n_h."""
        rz, nx = 2 * self.hidden, 3 * self.hidden
        return [
            (slice(None), slice(0, rz)),
            (slice(0, self.inputs + self.ones), slice(rz, nx)),
            (slice(self.inputs, None), slice(nx, None)),
        ]

    def pack(self, w: Tensor) -> list[Tensor]:
        """weight_ih, weight_hh, bias_ih, bias_hh."""
        rz, nx, nh = torch.split(w, [2 * self.hidden, self.hidden, self.hidden], -1)
        i, h = slice(0, self.inputs), slice(-self.hidden, None)
        weights = [torch.cat([rz[i], nx[i]], 1).mT, torch.cat([rz[h], nh[h]], 1).mT]
        if not self.ones:
            return weights
        one = self.inputs
        return [*weights, torch.cat([rz[one], nx[one]]), torch.cat([torch.zeros_like(rz[one]), nh[one]])]

    def unpack(self, values: Sequence[Tensor]) -> Tensor:
        """W (inputs + 1 + hidden, 4 x hidden)."""
        gates = 2 * self.hidden
        (wx, nx), (wh, nh) = ((w[:gates].mT, w[gates:].mT) for w in values[:2])
        rows = [torch.cat([wx, nx, torch.zeros_like(nx)], 1), torch.cat([wh, torch.zeros_like(nh), nh], 1)]
        if self.ones:
            bx, bh = values[2:]
            rows.insert(1, torch.cat([(bx + bh)[:gates], bx[gates:], bh[gates:]]).unsqueeze(0))
        return torch.cat(rows)
