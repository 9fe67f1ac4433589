"""What a recurrent layer is given: inputs at every step, initial states, and which step follows which.

Two layouts, in both of which every row is a real step, so that padding never enters a solve: :class:`Dense` for
sequences of one length, (steps, samples, ...) or (samples, steps, ...), and :class:`Packed` for those of a
PackedSequence, (sum of lengths, ...), time-major with the longest sequence first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Dense:
    """Sequences of one length, whose time axis is ``dim`` (0 or 1)."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def steps(self, x: Tensor) -> Sequence[Tensor]:
        """Views of ``x``, one for each step, (samples, ...)."""
        return x.unbind(self.dim)

    def before(self, x: Tensor, initial: Tensor) -> Tensor:
        """What the step before has in ``x``, and ``initial`` (samples, ...) at the first."""
        return torch.cat([initial.unsqueeze(self.dim), x.narrow(self.dim, 0, x.shape[self.dim] - 1)], self.dim)

    def last(self, x: Tensor) -> Tensor:
        """Each sequence's last step, (samples, ...)."""
        return x.select(self.dim, -1)

    def flip(self, x: Tensor) -> Tensor:
        """Each sequence in reverse."""
        return x.flip(self.dim)


class Packed:
    """The sequences of a PackedSequence with these ``batch_sizes``: how many are that long, for each step."""

    def __init__(self, batch_sizes: Tensor, device: torch.device) -> None:
        self.batch_sizes = batch_sizes
        self.sizes: list[int] = batch_sizes.tolist()
        offset = batch_sizes.cumsum(0) - batch_sizes
        step = torch.repeat_interleave(torch.arange(len(self.sizes)), batch_sizes)
        sample = torch.arange(len(step)) - offset[step]
        samples = torch.arange(self.sizes[0])
        lengths = (batch_sizes.unsqueeze(1) > samples).sum(0)
        # into the initial states with the rows behind them
        before = torch.where(step == 0, sample, self.sizes[0] + offset[step - 1] + sample)
        self._before = before.to(device)
        self._last = (offset[lengths - 1] + samples).to(device)
        self._flipped = (offset[lengths[sample] - 1 - step] + sample).to(device)

    def steps(self, x: Tensor) -> Sequence[Tensor]:
        """Views of ``x``, one for each step, (samples that are so long, ...)."""
        return torch.split(x, self.sizes)

    def before(self, x: Tensor, initial: Tensor) -> Tensor:
        """What the step before has in ``x``, and ``initial`` (samples, ...) at the first."""
        return torch.cat([initial, x])[self._before]

    def last(self, x: Tensor) -> Tensor:
        """Each sequence's last step, (samples, ...)."""
        return x[self._last]

    def flip(self, x: Tensor) -> Tensor:
        """Each sequence in reverse."""
        return x[self._flipped]


Layout = Dense | Packed


@dataclass
class Sequences:
    """The input of one recurrent layer.

    Attributes:
        data: inputs, in the layout, with a last axis of inputs.
        initial: the initial states h0 (and c0), each (samples, hidden).
        layout: which row follows which.
    """

    data: Tensor
    initial: tuple[Tensor, ...]
    layout: Layout

    @property
    def shape(self) -> torch.Size:
        """Of the inputs."""
        return self.data.shape

    def numel(self) -> int:
        """Of the inputs."""
        return self.data.numel()

    def double(self) -> Sequences:
        """In float64."""
        return Sequences(self.data.double(), tuple(state.double() for state in self.initial), self.layout)


class _Scan(torch.autograd.Function):
    """c_t = f_t c_(t-1) + u_t; its backward is the same scan from the end, dc_t = (what arrives) + f_(t+1) dc_(t+1)."""

    @staticmethod
    def forward(ctx: Any, f: Tensor, u: Tensor, initial: Tensor, layout: Layout) -> Tensor:
        c = torch.empty_like(u)
        previous = initial
        for now, keep, update in zip(layout.steps(c), layout.steps(f), layout.steps(u), strict=True):
            torch.addcmul(update, keep, previous[: len(update)], out=now)
            previous = now
        ctx.layout = layout
        ctx.save_for_backward(f, c, initial)
        return c

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dc: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        f, c, initial = ctx.saved_tensors
        layout: Layout = ctx.layout
        du = dc.clone()
        gradients, keeps = layout.steps(du), layout.steps(f)
        for t in range(len(gradients) - 2, -1, -1):
            later = gradients[t + 1]
            gradients[t][: len(later)].addcmul_(keeps[t + 1], later)
        return du * layout.before(c, initial), du, keeps[0] * gradients[0], None


def scan(f: Tensor, u: Tensor, initial: Tensor, layout: Layout) -> Tensor:
    """The elementwise linear recurrence c_t = f_t c_(t-1) + u_t.

    Args:
        f: what is kept of the step before, in the layout.
        u: what is added, in the layout.
        initial: c before the first step, (samples, ...).
        layout: which row follows which.

    Returns:
        c in the layout.
    """
    return _Scan.apply(f, u, initial, layout)  # type: ignore[no-any-return, no-untyped-call]
