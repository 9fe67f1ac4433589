"""nn.Linear: A is the input with its leading dimensions flattened, [x, 1]; W is the weight transposed over the bias."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ts_lightning.config import Rows
from ts_lightning.layers.affine import AffineLayer
from ts_lightning.layers.base import TargetLayer
from ts_lightning.layers.binding import Binding, StepUnit
from ts_lightning.layers.reproduce import reproduce_matrix
from ts_lightning.layers.rows import sample_rows, sequence_ridge, sequence_rows
from ts_lightning.ridge.dense import solve_dense
from ts_lightning.ridge.solve import solve, solve_apply


def has_methods(layer: TargetLayer, family: type, *names: str) -> bool:
    """Whether these methods of a layer are those of a class, and not of one that extends it."""
    return all(getattr(getattr(layer, name), "__func__", None) is getattr(family, name) for name in names)


class LinearTargets(AffineLayer):
    """Targets (..., out), or (rows, out) where rows are sampled, for an input (..., in) of any rank."""

    many_rows = False

    def places(self, x: Tensor) -> torch.Size:
        """The leading dimensions."""
        return x.shape[:-1]

    def bind(self, x: Tensor, rows: Rows | Tensor, unit: StepUnit, generator: torch.Generator) -> Binding:
        """Fix the rows: "auto" keeps all rows, or a sample of them (``sequence_rows``) where the input has steps.

        Its updates do not add up along time as a recurrent layer's do. Beside a recurrent layer, a layer at every step
        has a multiple of the model's "auto" unit; docs/defaults.md.
        """
        places = self.places(x)
        again = self.loop is not None and not self.loop.recurs and not self.loop.added
        every_step, total = again or sum(size > 1 for size in places) > 1, places.numel()
        auto = sequence_rows(x.shape[-1] + (self.bias is not None)) if every_step else total
        chosen = sample_rows(rows, total, auto, generator, x.device)
        kept = total if chosen is None else len(chosen)
        return Binding(
            places=places,
            rows=chosen,
            shape=self.target_shape(places, chosen),
            ridge=self._ridge(sequence_ridge(kept / total, self.solver.scale) if every_step else 1.0),
            unit=unit.times(3.0 if every_step and unit.share < 1 else 1.0),
            gradient_is_replicated=self.ocu or chosen is None,
        )

    def _matrix(self, x: Tensor) -> Tensor:
        if self.rows is not None:
            x = _Rows.apply(x, self.binding.at)  # type: ignore[no-untyped-call]
        if self.bias is not None:
            x = torch.cat([x, x.new_ones(*x.shape[:-1], 1)], -1)
        elif self.rows is None and self.solver.keep is not None:
            x = x.clone()  # what is kept outlasts changes of the input in place
        return x.reshape(-1, x.shape[-1])

    def pack(self, w: Tensor) -> list[Tensor]:
        """The values of the parameters for W (d, out)."""
        if self.bias is None:
            return [self.arranged(w.mT)]
        # split and not indexed, so that the gradients are put together in one go
        weight, bias = torch.split(w.mT, [len(w) - 1, 1], 1)
        return [self.arranged(weight), bias.squeeze(1)]

    def arranged(self, weight: Tensor) -> Tensor:
        """The weight as its Parameter holds it, for one (out, in)."""
        return weight

    def flat(self, weight: Tensor) -> Tensor:
        """The weight (out, in), for one as its Parameter holds it."""
        return weight

    def unpack(self, values: Sequence[Tensor]) -> Tensor:
        """W for values of the parameters."""
        return torch.cat([self.flat(values[0]).mT, *(bias.unsqueeze(0) for bias in values[1:])])

    def solve(self, x: Tensor, targets: Tensor) -> tuple[list[Tensor], Tensor]:
        """Weight (out, in) and bias (out,), and what is passed on (..., out)."""
        if self._plain(x):
            flat, t = (part if part.dim() == 2 else part.reshape(-1, part.shape[-1]) for part in (x, targets))
            values, z = solve_dense(flat, t, self.unit, self.solver, bias=self.bias is not None)
            return [self.arranged(values[0]), *values[1:]], z if x.dim() == 2 else z.view(*x.shape[:-1], z.shape[-1])
        a, wanted = self._matrix(x), targets * self.unit
        t = wanted.reshape(-1, wanted.shape[-1])
        w0, z0 = None, None
        if self.anchor is not None:
            w0 = self.unpack(self.anchor)
            z0 = a @ w0.to(a.dtype)
            t = t - z0
        if self.rows is None and not self.ocu:
            w, z = solve_apply(a, t, self.solver)
            z = z if z0 is None else z + z0
            return self.pack(w if w0 is None else w + w0), z.view(*x.shape[:-1], z.shape[-1])
        w = solve(a, t, self.solver)
        values = self.pack(w if w0 is None else w + w0)
        # a copy, since the next layer may change its input in place
        return values, wanted.to(x.dtype, copy=True) if self.ocu else self.apply(x, *values)

    def _plain(self, x: Tensor) -> bool:
        """Whether the solve is one operation: of A = [x, 1] with all its rows, at least as many as A has columns."""
        if self.rows is not None or self.ocu or self.anchor is not None:
            return False
        if not has_methods(self, LinearTargets, "_matrix", "pack"):
            return False
        return self.solver.rows(x.shape[:-1].numel()).total >= x.shape[-1] + (self.bias is not None)

    def around(self, x: Tensor) -> Tensor:
        """A W0."""
        assert self.anchor is not None, f"layer '{self.name}' has no anchor"
        a = self._matrix(x)
        z0 = a @ self.unpack(self.anchor).to(a.dtype)
        return z0.view(self.binding.shape)

    def features(self, x: Tensor) -> list[Tensor]:
        """The input."""
        return [x]

    def kept_targets(self, targets: Tensor) -> list[Tensor]:
        """T (N, out)."""
        return [(targets * self.unit).reshape(-1, targets.shape[-1])]

    def kept_values(self, w: Sequence[Tensor]) -> list[Tensor]:
        """Weight and bias."""
        return self.pack(w[0])

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Output (..., out)."""
        return functional.linear(x, self.flat(weight).to(x.dtype), None if bias is None else bias.to(x.dtype))

    def select(self, z: Tensor) -> Tensor:
        """The outputs at the solved rows."""
        return z if self.rows is None else z[self.binding.at]

    def reproduce(self, x: Tensor, values: Sequence[Tensor], damping: float) -> tuple[Tensor, int, int]:
        """Targets for a weight and bias."""
        a = self._matrix(x)
        targets, rank = reproduce_matrix(a, self.unpack(values), self.solver, damping)
        shape = (*x.shape[:-1], targets.shape[-1]) if self.rows is None else targets.shape
        return targets.reshape(shape), rank, a.shape[-1]


class _Rows(torch.autograd.Function):
    """The rows (rows, in) of an input (..., in); each place is read once, so that gradients are written, not added."""

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
