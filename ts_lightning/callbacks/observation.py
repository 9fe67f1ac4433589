"""One observed step of a target space: measures of its solves and its pull-back, and the shares of its time.

During an observation wrappers on the instance stand for a space's ``solve`` and ``pullback``, and its solvers report
their factors; outside of one, no code of this file runs. Factors and residuals are measured right after each solve and
released, so that an observation prolongs no graph's life.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from ts_lightning.engine.space import TargetSpace
from ts_lightning.ridge.diagnostics import ridge, spectrum
from ts_lightning.ridge.factor import Factor
from ts_lightning.ridge.precision import full_precision

#: what is shared out of a step's time
PARTS = ("solve", "main", "pullback")
#: quantity and layer
_Key = tuple[str, str]


class Observation:
    """Measures of the last solve and the last pull-back of a target space between :meth:`begin` and :meth:`end`.

    Where processes share the reference batch, all of them observe the same steps.

    Args:
        space: the target space.
        loss_scale: says what the loss is multiplied by in the present pass, as a gradient scaler does.

    Attributes:
        space: the target space.
        complete: whether there was a pull-back and a solve behind it.
    """

    def __init__(self, space: TargetSpace, loss_scale: Callable[[], float] = lambda: 1.0) -> None:
        self.complete = False
        self.space = space
        self._loss_scale = loss_scale
        self._pulled = False
        self._solves: dict[str, list[tuple[Sequence[Factor], Tensor, Callable[[], Tensor]]]] = {}
        # 0-dimensional, in float64; squares are of this process's rows or targets
        self._squares: dict[_Key, Tensor] = {}
        self._numbers: dict[_Key, Tensor] = {}

    def begin(self) -> None:
        """Start to observe; the time from here to the next solve or pull-back counts as the main pass."""
        self._clock = _Clock(next(iter(self.space.targets.values())).device)
        self._own_solve, self._own_pullback = self.space.cascade.solve, self.space.cascade.pullback
        self.space.cascade.__dict__.update(solve=self._solve, pullback=self._pullback)
        for layer in self.space.layers:
            for solver in layer.solvers:
                solver.observer = partial(self._saw, layer.name)

    def end(self) -> None:
        """Leave the space as it was."""
        self._clock.switch("observation")
        for layer in self.space.layers:
            for solver in layer.solvers:
                solver.observer = None
        for name in ("solve", "pullback"):
            self.space.cascade.__dict__.pop(name, None)

    def values(self) -> dict[str, dict[str, Tensor]]:
        """The measures by quantity and layer, 0-dimensional and on the CPU; the same in all processes.

        ``residual``: ||A W - T|| / ||T|| at the solved rows; a recurrent layer's states are those along its targets.
        ``condition``, ``rank``: see :func:`~ts_lightning.ridge.diagnostics.spectrum`. ``ridge``: see
        :func:`~ts_lightning.ridge.diagnostics.ridge`. Of a layer's several systems (the groups of a convolution, the
        three of a GRU) it is the largest condition and ridge and the smallest rank.
        ``weight_norm`` (biases included) and ``target_norm`` (in units of the layer's outputs) are those behind the
        step. ``weight_gradient_norm`` and ``target_gradient_norm`` are those that the pull-back found and left, before
        clipping and without the loss scale; the latter on the parameter, in which a 1 is the layer's unit.
        """
        squares = torch.stack(list(self._squares.values()))
        if self.space.shards is not None:
            self.space.shards.sum(squares)
        norms = squares.sqrt().cpu()
        numbers = torch.stack(list(self._numbers.values())).cpu()
        flat = {**dict(zip(self._squares, norms, strict=True)), **dict(zip(self._numbers, numbers, strict=True))}
        found: dict[str, dict[str, Tensor]] = {}
        for (quantity, layer), value in flat.items():
            if quantity != "wanted":
                value = value / flat["wanted", layer] if quantity == "residual" else value
                found.setdefault(quantity, {})[layer] = value
        return found

    def shares(self) -> dict[str, float]:
        """The shares of this process's time: solve, main (forward and backward of the loss), and pull-back.

        The rest is the optimizer's own, with clipping. What observing took does not count.
        """
        seconds = self._clock.seconds
        total = sum(spent for part, spent in seconds.items() if part != "observation")
        return {part: seconds.get(part, 0.0) / total for part in PARTS}

    def _saw(self, name: str, factors: Sequence[Factor], targets: Tensor, residual: Callable[[], Tensor]) -> None:
        self._solves.setdefault(name, []).append((factors, targets, residual))

    @torch.no_grad()
    def _solve(self) -> None:
        self._solves.clear()
        self._clock.switch("solve")
        self._own_solve()
        self._clock.switch("observation")
        with full_precision(self._clock.device):
            for layer in self.space.layers:
                self._measure_solve(layer.name)
                self._numbers["weight_norm", layer.name] = _square(layer.parameters).sqrt()
                self._squares["target_norm", layer.name] = _square([self.space.targets[layer.name]]) * layer.unit**2
        self._solves.clear()
        self.complete = self._pulled
        self._clock.switch("main")

    def _measure_solve(self, name: str) -> None:
        solves = self._solves[name]
        self._squares["residual", name] = _square([residual() for _, _, residual in solves])
        self._squares["wanted", name] = _square([targets for _, targets, _ in solves])
        factors = [factor for some, _, _ in solves for factor in some]
        conditions, ranks = zip(*map(spectrum, factors), strict=True)
        self._numbers["condition", name] = _flat(conditions).max()
        self._numbers["rank", name] = _flat(ranks).min()
        self._numbers["ridge", name] = _flat(map(ridge, factors)).max()

    def _pullback(self, *, keep: bool) -> bool:
        self._clock.switch("observation")
        scale = self._loss_scale()
        for layer in self.space.layers:
            gradients = [p.grad for p in layer.parameters if p.grad is not None]
            if gradients:
                self._numbers["weight_gradient_norm", layer.name] = _square(gradients).sqrt() / scale
        self._clock.switch("pullback")
        found = self._own_pullback(keep=keep)
        self._clock.switch("observation")
        for name, target in self.space.targets.items():
            if target.grad is not None:
                self._squares["target_gradient_norm", name] = _square([target.grad]) / scale**2
        self._pulled = self._pulled or found
        self._clock.switch("update")
        return found


class _Clock:
    """Seconds spent in each part of a step, the first of which is "main"."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self._part = "main"
        self._since = self._now()

    def switch(self, part: str) -> None:
        """Count the time from here on as ``part``."""
        now = self._now()
        self.seconds[self._part] = self.seconds.get(self._part, 0.0) + now - self._since
        self._part, self._since = part, now

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _square(tensors: Sequence[Tensor]) -> Tensor:
    """The sum of squares of all entries, accumulated in at least float32."""
    norms = [torch.linalg.vector_norm(t, dtype=torch.promote_types(t.dtype, torch.float32)) for t in tensors]
    return torch.stack(norms).double().square().sum()


def _flat(tensors: Sequence[Tensor] | map[Tensor]) -> Tensor:
    return torch.cat([tensor.double().reshape(-1) for tensor in tensors])
