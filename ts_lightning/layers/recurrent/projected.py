"""nn.LSTM with ``proj_size``: two systems for each layer, one for the gates and one for the projection of the state.

With m_t = sigmoid(o) tanh(c) (hidden,) the state is h_t = V m_t (projection,). The gates' targets give m at every step,
as they give h where nothing projects, so that V is solved first, from A = m and targets of its own; what V makes of m
is the state in the gates' system, [x_t, 1, h_(t-1)]. Targets are (..., 4 hidden + projection), the gates' first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from ts_lightning.config import TargetSpaceConfig
from ts_lightning.layers.binding import Binding, Size
from ts_lightning.layers.recurrent.cells import LSTMLayer
from ts_lightning.layers.recurrent.layer import RecurrentLayer
from ts_lightning.layers.recurrent.module import Passed, passed_on
from ts_lightning.layers.recurrent.sequences import Sequences
from ts_lightning.layers.recurrent.start import orthogonal, reproduce
from ts_lightning.layers.reproduce import START_DAMPING, reproduce_matrix
from ts_lightning.ridge.primal import Block
from ts_lightning.ridge.solve import solve


class ProjectedLSTMLayer(LSTMLayer):
    """One direction of one level of an nn.LSTM whose states are projected."""

    systems: ClassVar[int] = 2

    def __init__(self, name: str, module: nn.RNNBase, config: TargetSpaceConfig, suffix: str) -> None:
        super().__init__(name, module, config, suffix)
        self.parameters.append(getattr(module, f"weight_hr_{suffix}"))
        self.width += module.proj_size

    @classmethod
    def of(cls, name: str, module: nn.Module, config: TargetSpaceConfig) -> list[RecurrentLayer]:
        """One layer for each level and direction, of an nn.LSTM with or without projection."""
        assert isinstance(module, nn.LSTM)
        return super().of(name, module, config) if module.proj_size else LSTMLayer.of(name, module, config)

    def adopt(self, binding: Binding) -> None:
        """The same rows for both systems."""
        super().adopt(binding)
        gates, projection = self.solvers
        projection.ridge, projection.shared = gates.ridge, gates.shared
        projection.gradient_is_replicated = gates.gradient_is_replicated

    def _parts(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The gates' targets (..., 4 hidden) and the projection's (..., projection)."""
        gates, projected = torch.split(targets, [4 * self.hidden, self.state], -1)
        return gates, projected

    def solve(self, x: Sequences, targets: Tensor) -> tuple[list[Tensor], Passed]:
        """Weights and biases, and what is passed on."""
        # copies, laid out as those are that a lasting graph saves, so that both give gradients of the same bits
        gates, projected = (part.contiguous() for part in self._parts(targets.reshape(-1, targets.shape[-1])))
        solved = self.chosen(x)
        places = self.places(solved)
        m, c = super().states(solved, gates.view(*places, gates.shape[-1]))
        rows, wanted = m.reshape(-1, self.hidden), projected * self.unit
        if self.anchor is None:
            v = solve(rows, wanted, self.solvers[1])
        else:
            v0 = self.anchor[-1].mT
            v = v0 + solve(rows, wanted - rows @ v0.to(rows.dtype), self.solvers[1])
        h = (wanted if self.ocu else rows @ v.to(rows.dtype)).view(*places, self.state)
        a = self.matrix(solved, h)
        if self.anchor is None:
            w = self.unit * solve(a, gates, self.solver, self.blocks)
        else:
            w0 = self.unpack(self.anchor)
            w = w0 + self.unit * solve(a, gates - (a @ w0.to(a.dtype)) / self.unit, self.solver, self.blocks)
        values = [*self.pack(w), v.mT]
        return values, passed_on(x, (h, c)) if self.ocu else self.run(x, values)

    def fits_loop(self, x: Sequences) -> bool:
        """No: the states are those of the solved projection, which no use knows ahead of all."""
        return False

    def sizes(self) -> list[Size]:
        """The gates' systems, and the projection's."""
        found = super().sizes()
        return [*found, found[0]._replace(inputs=self.hidden, outputs=self.state)]

    def kept_targets(self, targets: Tensor) -> list[Tensor]:
        """T of the projection and of the gates, a row for each place."""
        gates, projected = self._parts((self.unit * targets).reshape(-1, targets.shape[-1]))
        return [projected, gates]

    def kept_values(self, w: Sequence[Tensor]) -> list[Tensor]:
        """Weights and biases for W of the projection and of the gates."""
        return [*super().kept_values(w[1:]), w[0].mT]

    def achieved(self, x: Sequences, values: Sequence[Tensor]) -> Tensor:
        """The gates' pre-activations and the states of the real run with these parameters."""
        x = self.chosen(x)
        h = self.run(x, values)[0]
        z = torch.cat([self.matrix(x, h) @ self.unpack(values).to(x.data.dtype), h.reshape(-1, self.state)], -1)
        return z if self.rows is not None else z.view(*self.places(x), z.shape[1])

    def reproduce(self, x: Sequences, values: Sequence[Tensor], damping: float) -> tuple[Tensor, int, int]:
        """Targets for weights and biases: the gates' as without projection, then the projection's."""
        x, v = self.chosen(x).double(), values[-1].double()
        gates, *of_gates = reproduce(_Projecting(self, v), x, [value.double() for value in values], damping)
        m = super().states(x, gates / self.unit)[0]
        projected, rank = reproduce_matrix(m.reshape(-1, self.hidden), v.mT, self.solvers[1], damping)
        targets = torch.cat([gates, projected.view(*gates.shape[:-1], self.state)], -1)
        rank, columns = min((rank, self.hidden), (of_gates[0], of_gates[1]), key=lambda pair: pair[0] - pair[1])
        return targets.flatten(0, -2) if self.rows is not None else targets, rank, columns

    def start(self, x: Sequences, std: float, generator: torch.Generator) -> Tensor:
        """Initial targets: an LSTM's, with an orthogonal projection."""
        x = x.double()
        v = nn.init.orthogonal_(torch.empty(self.state, self.hidden, dtype=torch.float64), generator=generator)
        values = [*orthogonal(self, x, std, generator), v.to(x.data.device)]
        return self.reproduce(x, values, START_DAMPING)[0]


class _Projecting:
    """The gates of a layer whose projection V is given, a ``Recurrence`` of ``start.py``."""

    def __init__(self, layer: ProjectedLSTMLayer, v: Tensor) -> None:
        self._layer, self._v = layer, v
        self.hidden, self.inputs, self.parameters = layer.hidden, layer.inputs, layer.parameters
        self.solver, self.unit, self.matrix, self.unpack = layer.solver, layer.unit, layer.matrix, layer.unpack
        self.blocks: list[Block] = layer.blocks

    def pack(self, w: Tensor) -> list[Tensor]:
        """The values of the parameters for the gates' W."""
        return [*self._layer.pack(w), self._v]

    def run(self, x: Sequences, values: Sequence[Tensor]) -> Passed:
        """The layer's own run."""
        return self._layer.run(x, values)

    def states(self, x: Sequences, targets: Tensor) -> tuple[Tensor, ...]:
        """The projected outputs and the memory."""
        m, c = LSTMLayer.states(self._layer, x, targets)
        return m @ self._v.mT, c
