"""Whether several processes train one model on one reference batch: what they do not solve together has to be the same.

Parameters that are not solved follow gradients, which a backward pass averages and a pull-back adds up. What each
process then makes of these by numbers of its own lets them drift apart.
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
    numbers = torch.zeros(3, dtype=torch.float64, device=device)
    for tensor in tensors:
        wide = tensor.detach().to(torch.float64)
        numbers += torch.stack([wide.sum(), wide.square().sum(), wide.new_tensor(wide.numel())]).to(device)
    extremes = torch.cat([numbers, -numbers])
    dist.all_reduce(extremes, dist.ReduceOp.MAX, group=group)
    span, norm = extremes[:3] + extremes[3:], extremes[1].sqrt()
    return bool(span[0] > _SAME * norm) or bool(span[1] > _SAME * extremes[1]) or bool(span[2] > 0)


class Replicas:
    """The copies that processes have of the parameters that are not solved."""

    def __init__(self) -> None:
        self._solves = 0
        self._said = False

    def look(self, parameters: Sequence[Tensor], device: torch.device, group: dist.ProcessGroup) -> None:
        """Compare them in one message behind some of the solves; called by all processes behind every one."""
        self._solves += 1
        if self._said or (self._solves > _LOOKS and self._solves & (self._solves - 1)):
            return
        if differ(parameters, device, group):
            self._said = True
            warnings.warn(
                "The processes no longer have the same parameters beside the solved ones, and each trains a model of "
                "its own. clip_grad_norm_ of torch and clip_gradients of Fabric know the targets of one process only: "
                "clip by self.clip_gradients(...) in Lightning, by space.gradient_norm() in a loop of your own. "
                "Average gradients (DistributedDataParallel), and make other changes in all processes alike.",
                stacklevel=2,
            )
