"""Muon in float32: the steps of ``torch.optim.Muon``, whose bfloat16 products processors are tens of times slower at.

The momentum of a weight's gradient, seen as a matrix (out, rest), is orthogonalised by five steps of a Newton-Schulz
iteration: X <- a X + (b G + c G²) X with G = X X' (Jordan et al., 2024). Kernels of convolutions are flattened.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.775, 2.0315)
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov's momentum; the learning rate of a matrix with more rows than columns is larger by the root.

    Args:
        weights: of two dimensions or more.
        lr: learning rate, about the spectral norm of a step.
        weight_decay: times the learning rate, how much of a weight goes at each step.
        momentum: how much of the averaged gradient is kept.
    """

    def __init__(
        self, weights: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.1, momentum: float = 0.95
    ) -> None:
        super().__init__(weights, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step."""
        (group,) = self.param_groups
        for p in group["params"]:
            if p.grad is None:
                continue
            average = self.state[p].setdefault("average", torch.zeros_like(p))
            average.lerp_(p.grad, 1 - group["momentum"])
            update = orthogonalised(p.grad.lerp(average, group["momentum"]).flatten(1))
            longer = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
            p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update.view(p.shape), alpha=group["lr"] * longer)


def orthogonalised(x: Tensor) -> Tensor:
    """A matrix with the singular vectors of ``x``, whose singular values are brought near 1."""
    a, b, c = _COEFFICIENTS
    wide = x if x.shape[0] <= x.shape[1] else x.T
    wide = wide / wide.norm().clamp_min(1e-7)
    for _ in range(_ITERATIONS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide if x.shape[0] <= x.shape[1] else wide.T.contiguous()
