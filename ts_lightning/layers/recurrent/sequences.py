"""What a recurrent layer is given: inputs at every step, initial states, and which step follows which.

Two layouts, in both of which every row is a real step, so that padding never enters a solve: :class:`Dense` for
sequences of one length, (steps, samples, ...) or (samples, steps, ...), and :class:`Packed` for those of a
PackedSequence, (sum of lengths, ...), time-major with the longest sequence first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


class Dense:
    """Sequences of one length, whose time axis is ``dim`` (0 or 1)."""

    #: whether later steps have fewer samples
    shrinks = False

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

    def sample_of_row(self, places: torch.Size) -> Tensor:
        """The number of its sample for every row, (rows,)."""
        each = torch.arange(places[1 - self.dim])
        return each.unsqueeze(self.dim).expand(places).flatten()

    def part(self, places: torch.Size, rows: Tensor, count: int) -> tuple[Dense, torch.Size]:
        """The layout of ``count`` samples alone, all of whose rows are ``rows``, and their places."""
        return self, torch.Size([places[0], count] if self.dim == 0 else [count, places[1]])


class Packed:
    """The sequences of a PackedSequence with these ``batch_sizes``: how many are that long, for each step."""

    shrinks = True

    def __init__(self, batch_sizes: Tensor, device: torch.device) -> None:
        self.batch_sizes = batch_sizes
        self.sizes: list[int] = batch_sizes.tolist()
        offset = batch_sizes.cumsum(0) - batch_sizes
        self._step = step = torch.repeat_interleave(torch.arange(len(self.sizes)), batch_sizes)
        self._sample = sample = torch.arange(len(step)) - offset[step]
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

    def sample_of_row(self, places: torch.Size) -> Tensor:
        """The number of its sample for every row, (rows,)."""
        return self._sample

    def part(self, places: torch.Size, rows: Tensor, count: int) -> tuple[Packed, torch.Size]:
        """The layout of ``count`` samples alone, all of whose rows are ``rows``, and their places."""
        return Packed(torch.bincount(self._step[rows.cpu()], minlength=1), rows.device), rows.shape


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
        """The shape of the inputs."""
        return self.data.shape

    def numel(self) -> int:
        """The number of entries of the inputs."""
        return self.data.numel()

    def detach(self) -> Sequences:
        """Without a graph."""
        return Sequences(self.data.detach(), tuple(state.detach() for state in self.initial), self.layout)

    def clone(self) -> Sequences:
        """A copy, in the same graph."""
        return Sequences(self.data.clone(), tuple(state.clone() for state in self.initial), self.layout)

    def double(self) -> Sequences:
        """In float64."""
        return Sequences(self.data.double(), tuple(state.double() for state in self.initial), self.layout)


class Part:
    """A choice of samples out of sequences.

    Args:
        x: all of them.
        rows: the indices of all rows of these samples, in rising order.
    """

    def __init__(self, x: Sequences, rows: Tensor) -> None:
        places = x.shape[:-1]
        self.rows = rows
        self.samples = torch.unique(x.layout.sample_of_row(places).to(rows.device)[rows])
        self.layout: Layout
        self.layout, self.places = x.layout.part(places, rows, len(self.samples))

    def of(self, x: Sequences) -> Sequences:
        """The chosen samples of ``x``."""
        data = x.data.reshape(-1, x.shape[-1]).index_select(0, self.rows).view(*self.places, x.shape[-1])
        return Sequences(data, tuple(state.index_select(0, self.samples) for state in x.initial), self.layout)


def scan(f: Tensor, u: Tensor, initial: Tensor, layout: Layout) -> Tensor:
    """The elementwise linear recurrence c_t = f_t c_(t-1) + u_t, without autograd.

    Args:
        f: what is kept of the step before, in the layout.
        u: what is added, in the layout; written over.
        initial: c before the first step, (samples, ...).
        layout: which row follows which.

    Returns:
        c in the layout.
    """
    previous = initial
    for now, keep in zip(layout.steps(u), layout.steps(f), strict=True):
        previous = now.addcmul_(keep, previous[: len(now)] if layout.shrinks else previous)
    return u


def scan_backward(f: Tensor, dc: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """The gradient through :func:`scan`, the same recurrence from the end: du_t = dc_t + f_(t+1) du_(t+1).

    Args:
        f: as in :func:`scan`.
        dc: what arrives on c, in the layout; written over.
        layout: as in :func:`scan`.

    Returns:
        The gradient on u, in the layout; times the c before, it is that on f. And the gradient on the initial c.
    """
    du, keeps = layout.steps(dc), layout.steps(f)
    for t in range(len(du) - 2, -1, -1):
        now, later = du[t], du[t + 1]
        if layout.shrinks:
            now = now[: len(later)]
        now.addcmul_(keeps[t + 1], later)
    return dc, keeps[0] * du[0]
