"""What every solved layer has in common: its parameters, its targets, and the rows that it is solved from.

A family (linear, conv, ...) says how its layer becomes A, T and W: :meth:`TargetLayer.bind` looks at the input of the
first reference forward and fixes the rows, :meth:`TargetLayer.solve` turns input and targets into weights and outputs,
:meth:`TargetLayer.select` picks from the layer's outputs those that have targets.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ts_lightning.config import Rows, TargetSpaceConfig
from ts_lightning.ridge import Factor, RidgeSolver


class TargetLayer(ABC):
    """One layer whose weights are solved from targets.

    Args:
        name: the layer's name in the model.
        module: the layer.
        config: the target space's settings.
    """

    #: standard deviation of the random targets before projection, where the config says none
    init_std = 1.0

    def __init__(self, name: str, module: nn.Module, config: TargetSpaceConfig) -> None:
        self.name = name
        self.module = module
        self.solver = RidgeSolver(config.ridge, config.ridge_scale, config.solve_dtype, f"layer '{name}'")
        self.rows: Tensor | None = None  # indices of the sampled rows; None where all rows have targets

    @property
    def weight(self) -> nn.Parameter:
        """The weight that the layer's solution is written to."""
        return self.module.weight  # type: ignore[return-value]

    @property
    def bias(self) -> nn.Parameter | None:
        """The bias that the layer's solution is written to."""
        return self.module.bias  # type: ignore[return-value]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that targets replace."""
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    @abstractmethod
    def bind(self, x: Tensor, rows: Rows, generator: torch.Generator) -> torch.Size:
        """Fix the rows for inputs like ``x`` and return the shape of the targets."""

    @abstractmethod
    def solve(self, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Solve on input ``x``: the weight, the bias and the layer's output, all differentiable."""

    @abstractmethod
    def select(self, z: Tensor) -> Tensor:
        """The entries of the layer's output ``z`` that have targets, in the targets' shape."""

    @abstractmethod
    def reproduce(self, x: Tensor) -> tuple[Tensor, int, int]:
        """Targets that reproduce the module's present weights on input ``x``, the rank of A, and its columns."""


def sample_rows(total: int, keep: int, generator: torch.Generator) -> Tensor | None:
    """``keep`` of ``total`` row indices in rising order, shape (keep,), or None for all of them."""
    if keep >= total:
        return None
    return torch.randperm(total, generator=generator)[:keep].sort().values


def pseudo_inverse(gram: Tensor, rows: int) -> tuple[Tensor, int]:
    """The pseudo-inverse of a symmetric positive semi-definite matrix (..., n, n), and its (least) rank."""
    values, vectors = torch.linalg.eigh(gram)
    floor = torch.finfo(values.dtype).eps * max(gram.shape[-1], rows) * values[..., -1:]
    kept = values > floor
    inverse = torch.where(kept, 1 / torch.where(kept, values, 1.0), 0.0)
    return (vectors * inverse.unsqueeze(-2)) @ vectors.mT, int(kept.sum(-1).min())


def reproduce_matrix(a: Tensor, w0: Tensor, solver: RidgeSolver) -> tuple[Tensor, int]:
    """Targets T = A (W0 + (A'A)^-1 R W0) from which the ridge solve gives W0 back, and the rank of A.

    Exact where A (..., N, d) has full column rank; otherwise W0 is projected on A's rows, which leaves A W0 as it is.
    All in float64.
    """
    a, w0 = a.double(), w0.double()
    z0 = a @ w0
    if a.shape[-2] < a.shape[-1]:
        factor: Factor = solver.dual(a)
        kernel = (a if factor.s2 is None else a / factor.s2.unsqueeze(-2)) @ a.mT
        inverse, rank = pseudo_inverse(kernel, a.shape[-1])
        return z0 + factor.c.unsqueeze(-1) * (inverse @ z0), rank
    gram = a.mT @ a
    factor = solver.primal(lambda dtype: gram.to(dtype).clone(), torch.float64)
    correction, rank = reproduce_correction(gram, w0, factor, a.shape[-2])
    return z0 + a @ correction, rank


def reproduce_correction(gram: Tensor, w0: Tensor, factor: Factor, rows: int) -> tuple[Tensor, int]:
    """(A'A)^+ R W0 for a full symmetric ``gram`` (..., d, d) in float64, and the rank of A."""
    scale = torch.ones_like(gram[..., 0]) if factor.s2 is None else factor.s2.sqrt()
    inverse, rank = pseudo_inverse(gram / (scale.unsqueeze(-1) * scale.unsqueeze(-2)), rows)
    shrunk = factor.c.unsqueeze(-1) * (inverse @ (scale.unsqueeze(-1) * w0))
    return shrunk / scale.unsqueeze(-1), rank
