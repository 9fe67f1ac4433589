"""nn.RNN, nn.LSTM and nn.GRU: targets are the gates' pre-activations at every step of the reference samples.

A row of A is a step of a sample, [x_t, 1, h_(t-1)]. The state h_(t-1) is the cell's output on the targets of the steps
before, so that all rows are known at once and one solve serves all steps; within a layer this is OCU by necessity. For
the same reason a sample of the rows has all steps of some samples. What the next layer receives is the real run of the
solved layer (SCU), by PyTorch's kernels or those of ``kernels.py``, or the cell's output on its targets (OCU).

Every direction of every level of a stack is a layer with targets of its own: ``name.l0``, ``name.l0_reverse``,
``name.l1``, ... A reverse layer sees its sequences, and has its targets, in the order in which it steps through them.
The cells are in ``cells.py``, layouts and the scan along time in ``sequences.py``. Source: Fairbank et al. (2022).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ts_lightning.config import Rows, TargetSpaceConfig
from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers.base import TargetLayer, Visit
from ts_lightning.layers.binding import Binding, Size, StepUnit
from ts_lightning.layers.loop import INPUTS_STD, STEP_SHARE, LoopableLayer
from ts_lightning.layers.noise import noisy_columns
from ts_lightning.layers.recurrent.module import Passed, directions, passed_on, run_module
from ts_lightning.layers.recurrent.sequences import Dense, Packed, Part, Sequences
from ts_lightning.layers.recurrent.start import orthogonal, reproduce
from ts_lightning.layers.reproduce import START_DAMPING
from ts_lightning.layers.rows import feature_varies, sequence_ridge, sequence_rows
from ts_lightning.ridge.primal import Block
from ts_lightning.ridge.processes import Cut, Shards
from ts_lightning.ridge.solve import solve

_LEAST_SAMPLES = 16  # of the "auto" rows; docs/defaults.md has the measurements


@dataclass(frozen=True, kw_only=True)
class RecurrentBinding(Binding):
    """What is fixed about a recurrent layer.

    Attributes:
        part: the samples that are solved from; None for all of them.
    """

    part: Part | None


class RecurrentLayer(LoopableLayer):
    """One direction of one level of a recurrent module.

    Targets have the layout of the input, (..., gates x hidden): (steps, samples, ...), or (samples, steps, ...) with
    ``batch_first``, or (sum of lengths, ...) for a PackedSequence. Where rows are sampled, they are all those of some
    samples, because the states depend on the targets of all steps before, and targets are (rows, gates x hidden).

    Args:
        name: the module's name.
        module: the nn.RNN, nn.LSTM or nn.GRU.
        config: the target space's settings.
        suffix: which layer of the module this is, as in the names of its weights: "l0", "l0_reverse", ...; "" for a
            cell, which has one.
    """

    step_share = STEP_SHARE
    #: a state that inputs hardly saturate is handed on
    normalised_std = INPUTS_STD
    #: cuDNN takes all weights in one piece of memory
    moves_weights = True
    #: gates, each of hidden size, in the targets
    gates: ClassVar[int]

    def __init__(self, name: str, module: nn.RNNBase | nn.RNNCellBase, config: TargetSpaceConfig, suffix: str) -> None:
        own = ".".join(part for part in (name, suffix) if part)
        super().__init__(own, module, config, self.gates * module.hidden_size)
        self.module_name = name
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh") if module.bias else ("weight_ih", "weight_hh")
        self.parameters = [getattr(module, f"{kind}_{suffix}" if suffix else kind) for kind in kinds]
        self.hidden = module.hidden_size
        self.inputs, self.state = self.parameters[0].shape[1], self.parameters[1].shape[1]
        self.ones = module.bias

    @classmethod
    def solves(cls, module: nn.Module, base: type[nn.Module]) -> bool:
        """Whether all its weights are parameters of its own; of a subclass's forward its call of ``base``'s is seen."""
        assert isinstance(module, nn.RNNBase)
        return all(module._parameters.get(name) is not None for name in module._flat_weights_names)

    @classmethod
    def of(cls, name: str, module: nn.Module, config: TargetSpaceConfig) -> list[RecurrentLayer]:
        """One layer for each level and direction."""
        assert isinstance(module, nn.RNNBase)
        suffixes = [f"l{n}{side}" for n in range(module.num_layers) for side in ("", "_reverse")[: directions(module)]]
        return [cls(name, module, config, suffix) for suffix in suffixes]

    @staticmethod
    def forward(layers: Sequence[TargetLayer], visit: Visit, input: Any, hx: Any = None) -> Any:
        """nn.RNNBase's forward in eval mode, see :func:`~ts_lightning.layers.recurrent.module.run_module`."""
        remaining = iter(layers)
        return run_module(layers[0].module, lambda given: visit(next(remaining), given), input, hx)

    @property
    def columns(self) -> int:
        """The number of columns of A."""
        return self.inputs + self.ones + self.state

    def bind(self, x: Sequences, rows: Rows | Tensor, unit: StepUnit, generator: torch.Generator) -> RecurrentBinding:
        """Fix the rows; "auto" keeps all rows of 16 samples at least, and of max(2048, 32 columns) rows together."""
        places = self.places(x)
        if isinstance(rows, str):
            wanted = sequence_rows(self.columns)
            chosen = None if rows == "all" else self._sample(x, wanted, _LEAST_SAMPLES, generator)
        else:
            chosen = rows.to(x.data.device) if isinstance(rows, Tensor) else self._sample(x, rows, 1, generator)
        kept = places if chosen is None else chosen.shape
        return RecurrentBinding(
            places=places,
            rows=chosen,
            shape=self.target_shape(places, chosen),
            ridge=self._ridge(sequence_ridge(kept.numel() / places.numel(), self.solver.scale)),
            unit=unit.times(1.0),
            steps=len(x.layout.steps(x.data)),
            part=None if chosen is None else Part(x, chosen),
        )

    def _sample(self, x: Sequences, rows: int, samples: int, generator: torch.Generator) -> Tensor | None:
        """All rows of a random sample of the sequences: of at least ``samples``, with at least ``rows`` rows together.

        Returns:
            The rows, rising; None for all rows.
        """
        sample = x.layout.sample_of_row(self.places(x))
        if rows >= len(sample):
            return None
        lengths = torch.bincount(sample)
        order = torch.randperm(len(lengths), generator=generator)
        count = max(int((lengths[order].cumsum(0) < rows).sum()) + 1, samples)
        if count >= len(lengths):
            return None
        return torch.isin(sample, order[:count]).nonzero().squeeze(1).to(x.data.device)

    def shard(self, x: Sequences, shards: Shards) -> tuple[Binding, Cut]:
        """The binding to the rows of this process's samples.

        Raises:
            TargetSpaceError: sequences are packed.
        """
        if isinstance(x.layout, Packed):
            raise TargetSpaceError(
                f"layer '{self.name}' receives a PackedSequence, whose rows go by steps and not by samples, so that "
                f"processes cannot share it. Use reference.shard=False, or add '{self.module_name}' to exclude."
            )
        binding, cut = super().shard(x, shards)
        assert isinstance(binding, RecurrentBinding)
        return replace(binding, part=None if binding.rows is None else Part(x, binding.rows)), cut

    @property
    def part(self) -> Part | None:
        """The samples that are solved from; None for all of them."""
        assert isinstance(self.binding, RecurrentBinding)
        return self.binding.part

    def chosen(self, x: Sequences) -> Sequences:
        """The samples that are solved from."""
        return x if self.part is None else self.part.of(x)

    def places(self, x: Sequences) -> torch.Size:
        """Samples and steps in the layout."""
        return x.shape[:-1]

    @abstractmethod
    def states(self, x: Sequences, targets: Tensor) -> tuple[Tensor, ...]:
        """The states h (and c) at every step, in the layout, of a cell with the pre-activations unit x targets."""

    @abstractmethod
    def run(self, x: Sequences, values: Sequence[Tensor]) -> Passed:
        """The module's forward with these parameters, in the precision of ``x``."""

    @property
    @abstractmethod
    def blocks(self) -> list[Block]:
        """The systems: which columns of A give which columns of the targets."""

    @abstractmethod
    def pack(self, w: Tensor) -> list[Tensor]:
        """The values of the parameters for W (inputs + 1 + hidden, gates x hidden)."""

    @abstractmethod
    def unpack(self, values: Sequence[Tensor]) -> Tensor:
        """W for values of the parameters, 0 outside of the blocks."""

    def matrix(self, x: Sequences, h: Tensor) -> Tensor:
        """A = [x, 1, h of the step before] for the states ``h`` (in the layout), a row for each place."""
        parts = [x.data.reshape(-1, self.inputs), x.layout.before(h, x.initial[0]).reshape(-1, self.state)]
        if self.ones:
            parts.insert(1, parts[0].new_ones(len(parts[0]), 1))
        return torch.cat(parts, -1)

    def expect_noise(self, x: Sequences, noise_of: Callable[[Tensor], float]) -> None:
        """Expect noise on the columns of x; the state has none."""
        noise = noise_of(x.data)
        self.solver.noise = noisy_columns(noise, self.inputs, self.ones + self.state, self.parameters[0])

    def solve(self, x: Sequences, targets: Tensor) -> tuple[list[Tensor], Passed]:
        """Weights and biases, and what is passed on."""
        t = targets.reshape(-1, targets.shape[-1])
        solved = self.chosen(x)
        # behind one view, where autograd adds up in place
        states = self.states(solved, t.view(*self.places(solved), t.shape[-1]))
        a = self.matrix(solved, states[0])
        if self.anchor is None:
            values = self.pack(self.unit * solve(a, t, self.solver, self.blocks))
        else:
            w0 = self.unpack(self.anchor)
            difference = t - (a @ w0.to(a.dtype)) / self.unit
            values = self.pack(w0 + self.unit * solve(a, difference, self.solver, self.blocks))
        return values, passed_on(x, states) if self.ocu else self.run(x, values)

    def sizes(self) -> list[Size]:
        """One system for each block of gates."""
        places, rows = self.binding.places.numel(), self.binding.shape.numel() // self.width
        columns, gates = range(self.columns), range(self.gates * self.hidden)
        return [Size(1, places, rows, len(columns[inputs]), len(gates[outputs])) for inputs, outputs in self.blocks]

    def features(self, x: Sequences) -> list[Tensor]:
        """The sequences; the states, too, where there is one step, whose only states are the initial ones."""
        return [x.data, x.initial[0]] if self.is_step(x) else [x.data]

    def varies(self, x: Sequences) -> bool:
        """Whether a feature of the sequences is not the same at all steps; the states are left aside."""
        return feature_varies(x.data)

    def kept_targets(self, targets: Tensor) -> list[Tensor]:
        """T of each block, a row for each place."""
        t = (self.unit * targets).reshape(-1, targets.shape[-1])
        return [t[:, outputs] for _, outputs in self.blocks]

    def kept_values(self, w: Sequence[Tensor]) -> list[Tensor]:
        """Weights and biases for W of each block."""
        padded = []
        for block, (inputs, _) in zip(w, self.blocks, strict=True):
            first, last, _ = inputs.indices(self.columns)
            padded.append(functional.pad(block, (0, 0, first, self.columns - last)))
        return self.pack(padded[0] if len(padded) == 1 else torch.cat(padded, -1))

    def sample_axis(self, x: Sequences) -> int:
        """Beside time."""
        assert isinstance(x.layout, Dense)
        return 1 - x.layout.dim

    def fits_loop(self, x: Sequences) -> bool:
        """Whether the sequences have one length."""
        return isinstance(x.layout, Dense)

    def is_step(self, x: Sequences) -> bool:
        """Whether the sequences have one step."""
        return len(x.layout.steps(x.data)) == 1

    def joined(self, xs: Sequence[Sequences]) -> Sequences:
        """The sequences and initial states of all uses, one after the other along the samples."""
        data = torch.cat([x.data for x in xs], self.sample_axis(xs[0]))
        initial = zip(*(x.initial for x in xs), strict=True)
        return Sequences(data, tuple(torch.cat(states) for states in initial), xs[0].layout)

    def forced(self, x: Sequences, part: Tensor) -> Passed:
        """The states along the targets."""
        return passed_on(x, self.states(x, part))

    def loop_values(self, x: Sequences, std: float, generator: torch.Generator) -> list[Tensor]:
        """Orthogonal weights, as those of :meth:`start`."""
        return orthogonal(self, x.double(), std, generator)

    def produce(self, x: Sequences, values: Sequence[Tensor]) -> Passed:
        """The real run, in OCU too."""
        return self.run(x, values)

    def achieved(self, x: Sequences, values: Sequence[Tensor]) -> Tensor:
        """The pre-activations of the real run with these parameters, without the forget bias."""
        x = self.chosen(x)
        z = self.matrix(x, self.run(x, values)[0]) @ self.unpack(values).to(x.data.dtype)
        return z if self.rows is not None else z.view(*self.places(x), z.shape[1])

    def reproduce(self, x: Sequences, values: Sequence[Tensor], damping: float) -> tuple[Tensor, int, int]:
        """Targets for weights and biases, see :func:`~ts_lightning.layers.recurrent.start.reproduce`."""
        targets, rank, columns = reproduce(self, self.chosen(x).double(), [value.double() for value in values], damping)
        return targets.flatten(0, -2) if self.rows is not None else targets, rank, columns

    def start(self, x: Sequences, std: float, generator: torch.Generator) -> Tensor:
        """Initial targets: the pre-activations of orthogonal weights, the inputs' contribution rescaled to ``std``.

        The recurrent weights are not rescaled.
        """
        return self.reproduce(x, orthogonal(self, x.double(), std, generator), START_DAMPING)[0]
