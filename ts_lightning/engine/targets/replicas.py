"""Whether several processes train one model on one reference batch: what they do not solve together has to be the same.

Gradients on weights are averaged by the backward pass ahead of a pull-back. Parameters that are not solved follow
gradients that are so averaged, and which a pull-back adds up. What each process then makes of these by numbers of its
own lets them drift apart, and the targets, of which each has a share, take steps of other lengths.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

_SAME = 1e-5  # of the norm, far above what rounding leaves
_LOOKS = 16  # solves that are looked at one by one, behind which only the 32nd, the 64th, ... are


@torch.no_grad()
def differ(tensors: Sequence[Tensor], device: torch.device, group: dist.ProcessGroup) -> bool:
    """Whether the processes' tensors differ in their number of entries, sum or norm; the same answer in all of them.

    Args:
        tensors: of this process.
        device: for the message.
        group: the processes.
    """
    return _apart(_spans(_numbers(tensors, device), group))


class Replicas:
    """The copies that processes have of what they do not solve together."""

    def __init__(self) -> None:
        self._solves = 0
        self._said = False
        self._averaged: Tensor | None = None  # numbers of the gradients on the weights at the last pull-back
        self._pulled: list[tuple[Tensor, Tensor]] = []  # the gradients on targets behind it, and copies of them
        self._held: Tensor | None = None  # numbers of the targets and of their moments ahead of the last steps

    @torch.no_grad()
    def note(self, averaged: Sequence[Tensor], pulled: Sequence[Tensor], device: torch.device) -> None:
        """Take note of a pull-back for the next look, if that is ``due``.

        Args:
            averaged: the gradients on the weights, which are to be the same in all processes.
            pulled: the gradients on this process's share of the targets.
            device: for the message.
        """
        self._averaged = _numbers(averaged, device)
        self._pulled = [(gradient, gradient.clone()) for gradient in pulled]

    @torch.no_grad()
    def hold(self, targets: Sequence[Tensor], moments: Sequence[Tensor], device: torch.device) -> None:
        """Take note of an optimizer's step for the next look, if that is ``due``.

        Args:
            targets: this process's share of those that it trains.
            moments: what it holds of them, of the targets' shapes.
            device: for the message.
        """
        held = torch.cat([_numbers(targets, device), _numbers(moments, device)])
        self._held = held if self._held is None else self._held + held

    @torch.no_grad()
    def look(self, parameters: Sequence[Tensor], device: torch.device, group: dist.ProcessGroup) -> None:
        """Compare them in one message behind some of the solves; called by all processes behind every one."""
        due = self.due
        self._solves += 1
        if not due:
            return
        none = torch.zeros(6, dtype=torch.float64, device=device)
        averaged, held = (
            none[:3] if self._averaged is None else self._averaged,
            none if self._held is None else self._held,
        )
        numbers = torch.cat([averaged, _numbers(parameters, device), held, _factor(self._pulled, device)])
        self._averaged, self._pulled, self._held = None, [], None
        gradients, beside, targets, moments, factor = torch.split(_spans(numbers, group), [3, 3, 3, 3, 1], dim=1)
        others, own = _apart(gradients), bool(factor[0] > _SAME * factor[1])
        one = _apart(targets) and bool(moments[1, 1] > 0) and not moments[0, :2].any()
        self._said = others or own or one or _apart(beside)
        if others:
            warnings.warn(
                "The processes pull back gradients that are not averaged over them, and the batches of some do not "
                "count. Call the model that DistributedDataParallel or fabric.setup gave, and let the last backward "
                "pass ahead of each pull-back be outside of no_sync() and fabric.no_backward_sync(...).",
                stacklevel=2,
            )
        elif own:
            warnings.warn(
                "The processes multiply the gradients of their targets by factors of their own: clip_grad_norm_ of "
                "torch and clip_gradients of Fabric know the targets of one process only. Clip by "
                "self.clip_gradients(...) in Lightning, by space.gradient_norm() in a loop of your own.",
                stacklevel=2,
            )
        elif one:
            warnings.warn(
                "An optimizer holds the same moments in all processes, of targets of which each has its own: those "
                "of one process, as of a state that one alone has saved. Let each load what it has saved itself, or "
                "let all have all targets, ReferenceConfig(shard=False).",
                stacklevel=2,
            )
        elif self._said:
            warnings.warn(
                "The processes no longer have the same parameters beside the solved ones, and each trains a model of "
                "its own. Average all gradients (DistributedDataParallel), and make changes of gradients and "
                "parameters in all processes alike.",
                stacklevel=2,
            )

    @property
    def due(self) -> bool:
        """Whether they are compared behind the next solve."""
        solves = self._solves + 1
        return not self._said and (solves <= _LOOKS or solves & (solves - 1) == 0)


def _numbers(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """The sum, the squared norm and the number of all entries (3), by which tensors are compared."""
    numbers = torch.zeros(3, dtype=torch.float64, device=device)
    for tensor in tensors:
        wide = tensor.detach().to(torch.float64)
        numbers += torch.stack([wide.sum(), wide.square().sum(), wide.new_tensor(wide.numel())]).to(device)
    return numbers


def _factor(pairs: Sequence[tuple[Tensor, Tensor]], device: torch.device) -> Tensor:
    """The factor (1) by which tensors were multiplied since they were copied; NaN where there is no such factor."""
    products = torch.zeros(3, dtype=torch.float64, device=device)
    for now, before in pairs:
        a, b = now.to(torch.float64), before.to(torch.float64)
        products += torch.stack([(a * b).sum(), b.square().sum(), a.square().sum()]).to(device)
    both, before, now = products
    factor = both / before
    uniform = (now - factor * both).abs() <= _SAME**2 * now
    return torch.where(uniform, factor, torch.nan).unsqueeze(0)


def _spans(numbers: Tensor, group: dist.ProcessGroup) -> Tensor:
    """How far the processes' numbers lie apart, and the largest of each (2, n); none from what is not finite."""
    extremes = torch.cat([numbers, -numbers])
    extremes = torch.where(extremes.isfinite(), extremes, -torch.inf)
    dist.all_reduce(extremes, dist.ReduceOp.MAX, group=group)
    largest, negated = extremes.chunk(2)
    return torch.stack([largest + negated, largest])


def _apart(spans: Tensor) -> bool:
    """Whether sums, squared norms or numbers of entries (2, 3) lie further apart than rounding lets them."""
    (total, square, count), (_, largest, _) = spans
    return bool(total > _SAME * largest.sqrt()) or bool(square > _SAME * largest) or bool(count > 0)
