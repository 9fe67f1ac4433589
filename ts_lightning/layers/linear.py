"""nn.Linear: A is the input with its leading dimensions flattened, [x, 1]; W is the weight transposed over the bias."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ts_lightning.config import Rows
from ts_lightning.layers.base import AffineLayer, reproduce_matrix, sample_rows
from ts_lightning.solve import solve, solve_apply


class LinearTargets(AffineLayer):
    """Targets (..., out), or (rows, out) where rows are sampled, for an input (..., in) of any rank."""

    def bind(self, x: Tensor, rows: Rows | Tensor, generator: torch.Generator) -> torch.Size:
        """Fix the rows; "auto" means all of them."""
        total = x.shape[:-1].numel()
        self.take_rows(sample_rows(total, total if isinstance(rows, str) else rows, generator, x.device), x)
        self.solver.outside = self.ocu or self.rows is None
        out = self.weight.shape[0]
        return torch.Size([*x.shape[:-1], out] if self.rows is None else [len(self.rows), out])

    def places(self, x: Tensor) -> torch.Size:
        """The leading dimensions."""
        return x.shape[:-1]

    def _matrix(self, x: Tensor) -> Tensor:
        if self.rows is not None:
            x = x.reshape(-1, x.shape[-1])[self.rows]
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
        return z if self.rows is None else z.reshape(-1, z.shape[-1])[self.rows]

    def reproduce(self, x: Tensor, values: Sequence[Tensor], damping: float) -> tuple[Tensor, int, int]:
        """Targets for a weight and bias."""
        a = self._matrix(x)
        w0 = torch.cat([values[0].mT, *(bias.unsqueeze(0) for bias in values[1:])])
        targets, rank = reproduce_matrix(a, w0, self.solver, damping)
        shape = (*x.shape[:-1], targets.shape[-1]) if self.rows is None else targets.shape
        return targets.reshape(shape), rank, a.shape[-1]
