"""What the first reference pass fixes about a layer: one immutable value, which the layer is solved by from then on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ts_lightning.ridge.processes import ShardedRows


class Size(NamedTuple):
    """The size of one system: A (groups, rows, inputs) and T (groups, rows, outputs).

    Attributes:
        groups: how many problems of that size; those of a convolution.
        places: where the layer is applied, on the whole reference batch or on this process's share of it.
        rows: of them, from which each is solved.
        inputs: unknowns of an output, the bias among them.
        outputs: of each.
    """

    groups: int
    places: int
    rows: int
    inputs: int
    outputs: int

    @property
    def dual(self) -> bool:
        """Whether it is solved from the matrix of the rows, A A', and not from that of the inputs."""
        return self.rows < self.inputs

    @property
    def products(self) -> int:
        """About how many multiplications one solve and its gradient take, without the layer's own forward.

        Of inputs that change from solve to solve; those that stay the same are factorised once.
        """
        _, _, n, d, m = self
        if self.dual:
            return self.groups * (n * n * d + n**3 // 6 + 2 * n * n * m + 5 * n * d * m)
        return self.groups * (n * d * d + d**3 // 6 + 2 * d * d * m + 4 * n * d * m)


@dataclass(frozen=True)
class StepUnit:
    """The unit in which the model's targets are trained, before a layer's own factor; see ``step_scale``.

    Attributes:
        value: what a target of 1 stands for, in units of the layer's outputs.
        auto: whether the setting is "auto", so that a layer may have a multiple of it.
        share: the :attr:`TargetLayer.step_share` of the model's most sensitive layer, a factor of "auto" values.
        exact: whether "auto" units are rounded to powers of two, so that targets in them hold outputs bit for bit.
    """

    value: float
    auto: bool = False
    share: float = 1.0
    exact: bool = False

    def times(self, stretch: float) -> float:
        """The unit of a layer whose "auto" unit is ``stretch`` times the model's."""
        if not self.auto:
            return self.value
        unit = self.value * stretch
        return 2.0 ** round(math.log2(unit)) if self.exact else unit


@dataclass(frozen=True, kw_only=True)
class Binding:
    """What the first reference pass fixes about one layer.

    Attributes:
        places: the sizes of the dimensions along which the layer is applied (samples, positions, steps); rows of A are
            numbered in their C order.
        rows: indices of the sampled rows, (rows,); None where all rows are solved from.
        shape: the targets' shape.
        ridge: the ridge constant, in the unit of ``ridge_scale``.
        unit: what a target of 1 stands for, in units of the outputs.
        steps: how many times in a row the layer receives what it gave: the longest sequence's steps; 1 without any.
        gradient_is_replicated: whether dL/dW comes from the training loss alone, whose gradient is the same in all
            processes; otherwise processes that share the rows have to add theirs up.
        shared: how the rows are spread over processes; None where all of them are here.
    """

    places: torch.Size
    rows: Tensor | None
    shape: torch.Size
    ridge: float
    unit: float
    steps: int = 1
    gradient_is_replicated: bool = False
    shared: ShardedRows | None = None

    @cached_property
    def at(self) -> tuple[Tensor, ...]:
        """The sampled rows' indices along each of the places; empty where all rows are solved from."""
        return () if self.rows is None else torch.unravel_index(self.rows, self.places)
