"""Loops: layers that one forward uses several times, and whose later inputs follow from what they gave before.

A recurrent cell is one, whether it is nn.LSTMCell or written by hand. As in a recurrent module, targets are the outputs
at all uses, and the layers pass on their targets while the inputs are collected (*teacher forcing*, Williams and
Zipser, 1989): so the inputs of all uses are known at once, and one solve serves them all. A is [x_1; ...; x_K] over the
K uses. Source: Fairbank et al. (2022), recurrent networks.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ts_lightning.layers.base import TargetLayer

STEP_SHARE = 0.1  # of layers whose steps add up along time; docs/defaults.md
INPUTS_STD = 0.05  # of what inputs contribute to a state at the start; docs/defaults.md


@dataclass(frozen=True)
class Loop:
    """How a layer takes part in a loop.

    Attributes:
        uses: how many there are in one forward.
        recurs: whether later inputs depend on what the layer gave; its outputs are forced then, and all rows are kept.
        added: whether its outputs are added to what states give, so that it starts as inputs of a recurrent layer do.
        states: which of the layer's input features (features,) are states, which say nothing at the first use; None
            where none are, and for recurrent modules and cells, which know.
    """

    uses: int
    recurs: bool
    added: bool = False
    states: Tensor | None = None


class LoopableLayer(TargetLayer):
    """A layer that can be solved from all uses of a loop at once.

    Its input is then that of all uses, joined along the samples, and so are its targets; see :class:`Loop`.

    Attributes:
        loop: how the layer takes part in a loop; None where it is in none.
    """

    loop: Loop | None = None

    @property
    def joined_uses(self) -> int:
        """How many uses are joined in the layer's input: those of a loop, 1 elsewhere."""
        return 1 if self.loop is None else self.loop.uses

    def sample_axis(self, x: Any) -> int:
        """The dimension of the targets along which samples lie, and uses are joined; one of the places, too."""
        return 0

    @abstractmethod
    def fits_loop(self, x: Any) -> bool:
        """Whether inputs like this one can be joined."""

    def is_step(self, x: Any) -> bool:
        """Whether inputs like this one are a step, whose next one is given the state that the layer hands on."""
        return False

    @abstractmethod
    def joined(self, xs: Sequence[Any]) -> Any:
        """One input for those of all uses."""

    def joined_alike(self, x: Any) -> Any:
        """The same where the input of every use is like ``x``; to bind the layer before all of them are known."""
        return self.joined([x] * self.joined_uses)

    def forced_by(self, targets: Tensor) -> Tensor:
        """What :meth:`forced` is given a part of, for the targets of all uses; what can be is computed for all at once.

        The samples lie where they do in the targets, which are what it is but in a subclass.
        """
        return targets

    @abstractmethod
    def forced(self, x: Any, part: Tensor) -> Any:
        """What the layer passes on at one use if its outputs are its targets.

        Args:
            x: its input there.
            part: of :meth:`forced_by`, the samples of this use.
        """

    @abstractmethod
    def loop_values(self, x: Any, std: float, generator: torch.Generator) -> list[Tensor]:
        """Values of the parameters at the start of a loop, whose first input is ``x``; in float64.

        What comes from inputs has the standard deviation ``std``. What comes from states is orthogonal, so that they
        are handed on as they are.
        """


def loop_of(layer: TargetLayer) -> Loop | None:
    """How a layer takes part in a loop; None where it is in none."""
    return layer.loop if isinstance(layer, LoopableLayer) else None


def recurs(layer: TargetLayer) -> bool:
    """Whether a layer is in a loop in which its inputs depend on what it gave before."""
    loop = loop_of(layer)
    return loop is not None and loop.recurs
