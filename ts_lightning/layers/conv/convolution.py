"""nn.Conv1d, nn.Conv2d, nn.Conv3d: A is the matrix of patches.

Where all rows are kept, A is never built: A'T is the convolution's weight gradient at (x, T), A V a convolution of x
with V, the A-gradient a transposed convolution, and A'A comes from :meth:`Geometry.gram`. Where rows are sampled, or
are fewer than the unknowns, the chosen patches are gathered and solved as a matrix.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ts_lightning.config import Rows, TargetSpaceConfig
from ts_lightning.layers.affine import AffineLayer
from ts_lightning.layers.binding import Binding, Size, StepUnit
from ts_lightning.layers.conv.operator import ConvSolve
from ts_lightning.layers.conv.patches import Geometry, PatchRows
from ts_lightning.layers.reproduce import reproduce_correction, reproduce_matrix
from ts_lightning.layers.rows import patch_ridge, sample_rows
from ts_lightning.ridge.processes import Cut, Shards
from ts_lightning.ridge.solve import solve

_LEAST_ROWS = 512  # of the "auto" sample; docs/defaults.md has the measurements


@dataclass(frozen=True, kw_only=True)
class ConvBinding(Binding):
    """What is fixed about a convolution.

    Attributes:
        patches: where in the input the patches of the solved rows are; None where no patch is gathered.
    """

    patches: PatchRows | None


class ConvTargets(AffineLayer):
    """Targets (N, out, *space), or (rows, out) where rows are sampled, for an input (N, in, *space)."""

    projected_std = 0.1

    def __init__(
        self, name: str, module: nn.Module, config: TargetSpaceConfig, weight: Tensor, bias: Tensor | None = None
    ) -> None:
        super().__init__(name, module, config, weight, bias)
        self.geometry = Geometry.of(module)

    def flat(self, weight: Tensor) -> Tensor:
        """A convolution's weight (out, in / groups, *kernel) for the parameter's value."""
        return weight

    def arranged(self, weight: Tensor) -> Tensor:
        """The inverse of :meth:`flat`."""
        return weight

    @classmethod
    def solves(cls, module: nn.Module, base: type[nn.Module]) -> bool:
        """Whether the module computes what ``base`` does, and has a weight of its own."""
        kind: Any = type(module)
        expected: Any = base
        return super().solves(module, base) and kind._conv_forward is expected._conv_forward

    @property
    def sample_dims(self) -> int:
        """Channels and space."""
        return len(self.geometry.kernel) + 1

    @property
    def patches(self) -> PatchRows | None:
        """Where in the input the patches of the solved rows are; None where no patch is gathered."""
        assert isinstance(self.binding, ConvBinding)
        return self.binding.patches

    def places(self, x: Tensor) -> torch.Size:
        """Samples and positions."""
        return torch.Size([x.shape[0], *self.geometry.outputs(self.geometry.pad(x))])

    def target_shape(self, places: torch.Size, rows: Tensor | None) -> torch.Size:
        """(N, out, *space), or (rows, out) where rows are sampled."""
        return torch.Size([places[0], self.width, *places[1:]] if rows is None else [len(rows), self.width])

    def bind(self, x: Tensor, rows: Rows | Tensor, unit: StepUnit, generator: torch.Generator) -> ConvBinding:
        """Fix the rows; "auto" keeps max(512, unknowns of one output).

        Where there are no more rows than unknowns, the ridge takes more of every step, for which the "auto" ridge and
        unit of sampled rows make up; docs/defaults.md.
        """
        places = self.places(x)
        columns = self.inputs + (self.bias is not None)
        chosen = sample_rows(rows, places.numel(), max(_LEAST_ROWS, columns), generator, x.device)
        # otherwise the reference batch is convolved with the weights
        gathered = chosen is not None or places.numel() < columns
        ridge = 1.0
        if chosen is not None:
            ridge = patch_ridge(len(chosen), columns, self.solver.scale, through=self.config.cascade_gradient)
        return ConvBinding(
            places=places,
            rows=chosen,
            shape=self.target_shape(places, chosen),
            ridge=self._ridge(ridge),
            unit=unit.times(1.0 if chosen is None else 3.0),
            gradient_is_replicated=self.ocu or not gathered,
            patches=PatchRows(self.geometry, self.geometry.pad(x), chosen) if gathered else None,
        )

    def shard(self, x: Tensor, shards: Shards) -> tuple[Binding, Cut]:
        """The binding to this process's share of the rows."""
        binding, cut = super().shard(x, shards)
        assert isinstance(binding, ConvBinding)
        if binding.rows is None and cut.dim > 0:  # channels are ahead of it in the targets
            cut = Cut(shards, cut.dim + 1, cut.positions)
        if binding.patches is None:
            return binding, cut
        return replace(binding, patches=PatchRows(self.geometry, self.geometry.pad(x), binding.rows)), cut

    def _target_rows(self, targets: Tensor) -> Tensor:
        """Targets as (groups, rows, out / groups)."""
        if self.rows is None:
            return self.geometry.rows(targets)
        return targets.view(targets.shape[0], self.geometry.groups, -1).transpose(0, 1)

    def solve(self, x: Tensor, targets: Tensor) -> tuple[list[Tensor], Tensor]:
        """Weight and bias (out,), and what is passed on (N, out, *space)."""
        padded, wanted = self.geometry.pad(x), targets * self.unit
        anchor = None if self.anchor is None else [self.flat(self.anchor[0]), *self.anchor[1:]]
        if self.patches is None:
            z0 = None if anchor is None else self.geometry.convolve(padded, *(value.to(x.dtype) for value in anchor))
            t = wanted if z0 is None else wanted - z0
            weight, bias, z = ConvSolve.apply(padded, t, self.geometry, self.solver, self.bias is not None)  # type: ignore[no-untyped-call]
            solved = [weight] if bias is None else [weight, bias]
            if anchor is not None:
                solved, z = [value + w0 for value, w0 in zip(solved, anchor, strict=True)], z + z0
            return [self.arranged(solved[0]), *solved[1:]], wanted.to(x.dtype) if self.ocu else z
        a, t = self.patches.gather(padded, self.bias is not None), self._target_rows(wanted)
        if anchor is not None:
            w0 = self.geometry.to_matrix(anchor[0], anchor[1] if len(anchor) > 1 else None)
            t = t - a @ w0.to(a.dtype)
        # one matrix where there is one group: a batch of one would take the slower way
        alone = len(a) == 1
        w = solve(a.squeeze(0), t.squeeze(0), self.solver).unsqueeze(0) if alone else solve(a, t, self.solver)
        weight, bias = self.geometry.to_weight(w if anchor is None else w + w0, self.bias is not None)
        values = [weight.contiguous()] if bias is None else [weight.contiguous(), bias]
        own = [self.arranged(values[0]), *values[1:]]
        if self.ocu:
            # a copy, since the next layer may change its input in place
            return own, wanted.to(x.dtype, copy=True)
        return own, self.geometry.convolve(padded, *(value.to(x.dtype) for value in values))

    def around(self, x: Tensor) -> Tensor:
        """A W0."""
        if self.patches is None:
            return super().around(x)
        assert self.anchor is not None, f"layer '{self.name}' has no anchor"
        a = self.patches.gather(self.geometry.pad(x), self.bias is not None)
        w0 = self.geometry.to_matrix(self.flat(self.anchor[0]), self.anchor[1] if len(self.anchor) > 1 else None)
        rows = (a @ w0.to(a.dtype)).transpose(0, 1).reshape(a.shape[1], self.width)
        if self.rows is not None:
            return rows
        places = self.binding.places
        return rows.view(*places, self.width).movedim(-1, 1)

    def sizes(self) -> list[Size]:
        """One system for each group."""
        (size,), groups = super().sizes(), self.geometry.groups
        return [size._replace(groups=groups, outputs=self.width // groups)]

    def features(self, x: Tensor) -> list[Tensor]:
        """The channels at every position."""
        return [x.movedim(1, -1)]

    def kept_targets(self, targets: Tensor) -> list[Tensor]:
        """(groups, rows, out / groups), or as they are where A is an operator."""
        wanted = targets * self.unit
        if self.patches is None:
            return [wanted]
        t = self._target_rows(wanted)
        return [t.squeeze(0) if len(t) == 1 else t]

    def kept_values(self, w: Sequence[Tensor]) -> list[Tensor]:
        """Weight and bias for W (groups, d, out / groups)."""
        weight, bias = self.geometry.to_weight(w[0] if w[0].dim() == 3 else w[0].unsqueeze(0), self.bias is not None)
        weight = self.arranged(weight)
        return [weight] if bias is None else [weight, bias]

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Output (N, out, *space)."""
        return self.geometry.convolve(self.geometry.pad(x), self.flat(weight), bias)

    def produce(self, x: Tensor, values: Sequence[Tensor]) -> Tensor:
        """The output, also of one sample without a dimension for it."""
        if x.dim() < len(self.geometry.kernel) + 2:
            return self.produce(x.unsqueeze(0), values).squeeze(0)
        return self.apply(x, *(value.to(x.dtype) for value in values))

    def select(self, z: Tensor) -> Tensor:
        """The outputs at the solved rows."""
        return z if self.rows is None else z.movedim(1, -1).reshape(-1, z.shape[1])[self.rows]

    def reproduce(self, x: Tensor, values: Sequence[Tensor], damping: float) -> tuple[Tensor, int, int]:
        """Targets for a weight and bias."""
        x = self.geometry.pad(x).double()
        bias = values[1].double() if len(values) > 1 else None
        w0 = self.geometry.to_matrix(self.flat(values[0].double()), bias)
        if self.patches is not None:
            t, rank = reproduce_matrix(self.patches.gather(x, bias is not None), w0, self.solver, damping)
            rows = t.transpose(0, 1).reshape(t.shape[1], -1)
            if self.rows is None:
                rows = rows.view(x.shape[0], *self.geometry.outputs(x), -1).movedim(-1, 1)
            return rows, rank, w0.shape[1]
        gram, sums = self.geometry.moments(x, bias is not None, torch.float64)
        gram = gram.tril() + gram.tril(-1).mT
        total = x.shape[0] * math.prod(self.geometry.outputs(x))
        correction, rank = reproduce_correction(gram, sums, w0, self.solver, total, damping)
        shifted, shifted_bias = self.geometry.to_weight(w0 + correction, bias is not None)
        return self.geometry.convolve(x, shifted.contiguous(), shifted_bias), rank, w0.shape[1]
