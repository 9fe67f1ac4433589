"""nn.Linear: A is the input with its leading dimensions flattened, [x, 1]; W is the weight transposed over the bias."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ts_lightning.config import Rows, TargetSpaceConfig
from ts_lightning.layers.base import AffineLayer, reproduce_matrix, sample_rows, sequence_ridge, sequence_rows
from ts_lightning.ridge.solve import solve, solve_apply


class LinearTargets(AffineLayer):
    """Targets (..., out), or (rows, out) where rows are sampled, for an input (..., in) of any rank."""

    def __init__(
        self, name: str, module: nn.Module, config: TargetSpaceConfig, weight: Tensor, bias: Tensor | None = None
    ) -> None:
        super().__init__(name, module, config, weight, bias)
        self._every_step = False
        self._at: tuple[Tensor, ...] = ()  # the rows' places

    def bind(self, x: Tensor, rows: Rows | Tensor, generator: torch.Generator) -> torch.Size:
        """Fix the rows; "auto" means all of them, and of an input that has them at every step as many as suffice."""
        total, self._every_step = x.shape[:-1].numel(), sum(size > 1 for size in x.shape[:-1]) > 1
        enough = sequence_rows(x.shape[-1] + (self.bias is not None)) if self._every_step else total
        self.take_rows(sample_rows(rows, total, enough, generator, x.device), x)
        self.solver.outside = self.ocu or self.rows is None
        kept = x.shape[:-1] if self.rows is None else self.rows.shape
        self.auto_ridge = sequence_ridge(kept.numel() / total, self.solver.scale) if self._every_step else 1.0
        return torch.Size([*kept, self.weight.shape[0]])

    def tune(self, config: TargetSpaceConfig, step_scale: float, share: float) -> None:
        """Take the ridge and the unit; beside a recurrent layer, whose steps add up along time, those here do not."""
        self.auto_stretch = 3.0 if self._every_step and share < 1 else 1.0  # docs/defaults.md
        super().tune(config, step_scale, share)

    def places(self, x: Tensor) -> torch.Size:
        """The leading dimensions."""
        return x.shape[:-1]

    def take_rows(self, rows: Tensor | None, x: Tensor) -> None:
        """Solve from these rows of inputs like ``x``; None for all of them."""
        super().take_rows(rows, x)
        self._at = () if rows is None else torch.unravel_index(rows, self.places(x))

    def _matrix(self, x: Tensor) -> Tensor:
        if self.rows is not None:
            x = _Rows.apply(x, self._at)  # type: ignore[no-untyped-call]
        if self.bias is not None:
            x = torch.cat([x, x.new_ones(*x.shape[:-1], 1)], -1)
        return x.reshape(-1, x.shape[-1])

    def _split(self, w: Tensor) -> list[Tensor]:
        if self.bias is None:
            return [w.mT]
        # split and not indexed, so that the gradients are put together in one go
        weight, bias = torch.split(w.mT, [len(w) - 1, 1], 1)
        return [weight, bias.squeeze(1)]

    def solve(self, x: Tensor, targets: Tensor) -> tuple[list[Tensor], Tensor]:
        """Weight (out, in) and bias (out,), and what is passed on (..., out)."""
        a, wanted = self._matrix(x), targets * self.unit
        if self.ocu:
            # a copy, since the next layer may change its input in place
            return self._split(solve(a, wanted.reshape(-1, wanted.shape[-1]), self.solver)), wanted.clone()
        if self.rows is None:
            w, z = solve_apply(a, wanted.reshape(-1, wanted.shape[-1]), self.solver)
            return self._split(w), z.view(*x.shape[:-1], z.shape[-1])
        values = self._split(solve(a, wanted, self.solver))
        return values, self.apply(x, *values)

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Output (..., out)."""
        return functional.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))

    def select(self, z: Tensor) -> Tensor:
        """The outputs at the solved rows."""
        return z if self.rows is None else z[self._at]

    def reproduce(self, x: Tensor, values: Sequence[Tensor], damping: float) -> tuple[Tensor, int, int]:
        """Targets for a weight and bias."""
        a = self._matrix(x)
        w0 = torch.cat([values[0].mT, *(bias.unsqueeze(0) for bias in values[1:])])
        targets, rank = reproduce_matrix(a, w0, self.solver, damping)
        shape = (*x.shape[:-1], targets.shape[-1]) if self.rows is None else targets.shape
        return targets.reshape(shape), rank, a.shape[-1]


class _Rows(torch.autograd.Function):
    """The rows (rows, in) of an input (..., in); its gradient is not added up, since no two are at the same place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, at: tuple[Tensor, ...]) -> Tensor:
        ctx.shape, ctx.at = x.shape, at
        return x[at]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, drows: Tensor) -> tuple[Tensor, None]:
        dx = drows.new_zeros(ctx.shape)
        dx[ctx.at] = drows
        return dx, None
