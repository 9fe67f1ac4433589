"""What every solved layer has in common: its parameters, its targets, and the rows that it is solved from.

A family (linear, conv, recurrent, attention) says how its layers become A, T and W: :meth:`TargetLayer.bind` looks at
the input of the first reference forward and fixes the rows, :meth:`TargetLayer.narrow` keeps those of this process's
samples where several share the reference batch, :meth:`TargetLayer.solve` turns input and targets into weights and what
the next layer receives, :meth:`TargetLayer.achieved` says what of the targets these weights achieve.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ts_lightning.config import RidgeScale, Rows, TargetSpaceConfig
from ts_lightning.errors import TargetSpaceError
from ts_lightning.ridge.processes import Cut, ShardedRows, Shards
from ts_lightning.ridge.system import RidgeSolver

# docs/defaults.md has the measurements
START_DAMPING = 0.1
_LEAST_ROWS = 2048
_ROWS_PER_COLUMN = 32

#: stands for a layer's forward in the reference pass: (layer, its input) -> what the next layer receives
Visit = Callable[["TargetLayer", Any], Any]


class TargetLayer(ABC):
    """One layer whose weights are solved from targets; a module consists of one (linear, conv) or several of them.

    Args:
        name: the layer's name, under which its targets are kept.
        module: the module that it belongs to.
        config: the target space's settings.

    Attributes:
        module_name: the module's name in the model.
        parameters: the module's parameters that targets replace; the first one's place in an optimizer is theirs.
        solvers: of each of the :attr:`systems`; ``solver`` is the first.
        rows: indices of the sampled rows; None where all rows are solved from.
        unit: what a target of 1 stands for, in the units of the outputs; see ``step_scale``.
    """

    #: share of the "auto" step scale that a model with such a layer bears in all layers; docs/defaults.md
    step = 1.0
    #: the ridge, and what the "auto" step scale of this layer alone is multiplied with; docs/defaults.md
    auto_ridge, auto_stretch = 1.0, 1.0
    #: standard deviation of the initial targets where the config says none; docs/defaults.md
    normalised_std = 0.6
    #: the same of the random targets before projection
    projected_std = 1.0
    #: the most systems that it has, one for each of its inputs
    systems = 1
    parameters: list[nn.Parameter]

    def __init__(self, name: str, module: nn.Module, config: TargetSpaceConfig) -> None:
        self.name = self.module_name = name
        self.module = module
        self.ocu = config.method == "ocu"
        label = f"layer '{name}'"
        self.solvers = [
            RidgeSolver(self.auto_ridge, config.ridge_scale, config.solve_dtype, label) for _ in range(self.systems)
        ]
        self.solver = self.solvers[0]
        self.rows: Tensor | None = None
        self.unit = 1.0

    @classmethod
    @abstractmethod
    def of(cls, name: str, module: nn.Module, config: TargetSpaceConfig) -> Sequence[TargetLayer]:
        """The layers that the module ``name`` consists of.

        Raises:
            TargetSpaceError: the module has an option that cannot be solved.
        """

    @staticmethod
    @abstractmethod
    def forward(layers: Sequence[TargetLayer], visit: Visit, *args: Any, **kwargs: Any) -> Any:
        """The forward of the module that ``layers`` belong to, with ``visit`` for each layer's own."""

    @abstractmethod
    def bind(self, x: Any, rows: Rows | Tensor, generator: torch.Generator) -> torch.Size:
        """Fix the rows for inputs like ``x``: so many, or these; and return the shape of the targets."""

    def tune(self, config: TargetSpaceConfig, step_scale: float, share: float) -> None:
        """Take the ridge and the unit of the settings, or where these leave them open those that suit the rows.

        Args:
            config: the settings.
            step_scale: theirs, or what "auto" comes to for the model.
            share: what of the latter its most sensitive layer bears, see :attr:`step`.
        """
        self.solver.ridge = self.auto_ridge if config.ridge == "auto" else config.ridge
        self.unit = step_scale * (self.auto_stretch if config.step_scale == "auto" else 1.0)

    @abstractmethod
    def places(self, x: Any) -> torch.Size:
        """The places where the layer is applied to an input like ``x``, in whose C order rows are numbered."""

    def take_rows(self, rows: Tensor | None, x: Any) -> None:
        """Solve from these rows of inputs like ``x``; None for all of them."""
        self.rows = rows

    def narrow(self, x: Any, places: torch.Size, shards: Shards) -> Cut:
        """Keep the rows of this process's samples.

        Args:
            x: an input of these samples.
            places: the places of the whole reference batch, on which the layer is bound.
            shards: the processes.

        Returns:
            Which of the targets are this process's.

        Raises:
            TargetSpaceError: the samples do not lie along one dimension of the places.
        """
        here = self.places(x)
        everywhere = shards.objects(tuple(here))  # so that all processes come to the same conclusion
        changed = {
            d for there in everywhere for d, (few, all_) in enumerate(zip(there, places, strict=True)) if few != all_
        }
        dim = min(changed, default=0)
        held = [high - low for low, high in map(shards.bounds, range(shards.ranks))]
        if len(changed) != 1 or any(
            there[dim] * shards.samples != places[dim] * count for there, count in zip(everywhere, held, strict=True)
        ):
            raise TargetSpaceError(
                f"layer '{self.name}' is applied at {tuple(places)} places of the {shards.samples} samples of the "
                f"reference batch, and at {everywhere[0]} of {held[0]} of them; one dimension should be a multiple of "
                f"the samples. Use reference.shard=False, or add '{self.module_name}' to exclude."
            )
        limits = [shards.bounds(rank, places[dim]) for rank in range(shards.ranks)]
        if self.rows is None:
            each = places.numel() // places[dim]
            self.solver.shared = ShardedRows(shards, [each * (high - low) for low, high in limits])
            self.take_rows(None, x)
            return Cut(shards, dim, [torch.arange(*limit) for limit in limits])
        at = torch.stack(torch.unravel_index(self.rows.cpu(), places))
        mine = [((low <= at[dim]) & (at[dim] < high)).nonzero().squeeze(1) for low, high in limits]
        self.solver.shared = ShardedRows(shards, [len(positions) for positions in mine])
        local = at[:, mine[shards.rank]]
        local[dim] -= limits[shards.rank][0]
        steps = torch.tensor([here[n + 1 :].numel() for n in range(len(here))])
        self.take_rows((local * steps.unsqueeze(1)).sum(0).to(self.rows.device), x)
        return Cut(shards, 0, mine)

    @abstractmethod
    def solve(self, x: Any, targets: Tensor) -> tuple[list[Tensor], Any]:
        """Solve on input ``x`` for ``targets`` in :attr:`unit`, differentiably.

        Returns:
            The values of :attr:`parameters`, and what the next layer receives: in SCU what the layer produces with
            them, in OCU what it was asked to produce.
        """

    @abstractmethod
    def achieved(self, x: Any, values: Sequence[Tensor]) -> Tensor:
        """What the layer produces on input ``x`` with these parameters where it has targets, in the targets' shape.

        In units of the outputs, as are the targets of :meth:`reproduce` and :meth:`start`.
        """

    @abstractmethod
    def reproduce(self, x: Any, values: Sequence[Tensor], damping: float) -> tuple[Tensor, int, int]:
        """Targets whose solution on input ``x`` is ``values``, the rank of A, and its columns."""

    @abstractmethod
    def start(self, x: Any, std: float, generator: torch.Generator) -> Tensor:
        """Initial targets of the standard deviation ``std`` for ``init="normalised"``."""


class AffineLayer(TargetLayer):
    """A layer of one weight and perhaps a bias, whose targets are its outputs.

    Args:
        name: the layer's name.
        module: the module that it belongs to.
        config: the target space's settings.
        weight: (out, ...).
        bias: (out,), or None.
    """

    def __init__(self, name: str, module: nn.Module, config: TargetSpaceConfig, weight: Any, bias: Any = None) -> None:
        super().__init__(name, module, config)
        self.weight, self.bias = weight, bias
        self.parameters = [weight] if bias is None else [weight, bias]

    @classmethod
    def of(cls, name: str, module: nn.Module, config: TargetSpaceConfig) -> Sequence[TargetLayer]:
        """The one layer."""
        return [cls(name, module, config, module.weight, module.bias)]

    @staticmethod
    def forward(layers: Sequence[TargetLayer], visit: Visit, input: Tensor) -> Any:
        """The visit."""
        (layer,) = layers
        return visit(layer, input)

    @abstractmethod
    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The layer's output on input ``x`` with these weights."""

    @abstractmethod
    def select(self, z: Tensor) -> Tensor:
        """The entries of the layer's output ``z`` that have targets, in the targets' shape."""

    def achieved(self, x: Tensor, values: Sequence[Tensor]) -> Tensor:
        """The outputs at the solved rows."""
        return self.select(self.apply(x, *values))

    def start(self, x: Tensor, std: float, generator: torch.Generator) -> Tensor:
        """Initial targets: the outputs of an orthogonal layer, rescaled to the standard deviation ``std``.

        The starting weights are those of layer-sequential unit variance (Mishkin and Matas, ICLR 2016). The targets
        make up for the shrinkage of the ridge, but for directions of A whose variance is below a tenth of it.
        """
        weight = torch.empty(self.weight.shape, dtype=torch.float64)
        weight = nn.init.orthogonal_(weight, generator=generator).to(x.device)
        bias = [] if self.bias is None else [weight.new_zeros(self.bias.shape)]
        spread = float(self.select(self.apply(x.double(), weight, *bias)).std(correction=0))
        weight = weight * (std / spread if spread > 0 else 1.0)
        return self.reproduce(x, [weight, *bias], START_DAMPING)[0]


def sequence_rows(columns: int) -> int:
    """How many rows "auto" keeps of a layer that is applied at every step of sequences and has so many inputs."""
    return max(_LEAST_ROWS, _ROWS_PER_COLUMN * columns)


def sequence_ridge(share: float, scale: RidgeScale) -> float:
    """The ridge that is to this share of the rows of such a layer what 1 is to all; docs/defaults.md."""
    return share if scale in ("absolute", "variance") else 1.0  # the others are in proportion to the rows


def sample_rows(
    rows: Rows | Tensor, total: int, enough: int, generator: torch.Generator, device: torch.device
) -> Tensor | None:
    """So many of ``total`` row indices in rising order, "auto" is ``enough``; or those given; None for all of them."""
    if isinstance(rows, Tensor):
        return rows.to(device)
    keep = enough if rows == "auto" else total if rows == "all" else rows
    if keep >= total:
        return None
    return torch.randperm(total, generator=generator)[:keep].sort().values.to(device)


def reproduce_matrix(a: Tensor, w0: Tensor, solver: RidgeSolver, damping: float) -> tuple[Tensor, int]:
    """Targets T = A (W0 + (A'A + damping R)^-1 R W0), and the rank of A (not looked for where there is damping).

    Without damping the ridge solve gives W0 back: exactly where A (..., N, d) has full column rank, and projected on
    A's rows, which leaves A W0 as it is, otherwise. All in float64.
    """
    a, w0 = a.double(), w0.double()
    z0 = a @ w0
    if a.shape[-2] < a.shape[-1]:
        factor = solver.dual(a)
        kernel = factor.unscale(a.mT).mT @ a.mT
        c = factor.c.unsqueeze(-1)
        inverse, rank = _inverse(kernel, z0, damping * c, a.shape[-1])
        return z0 + c * inverse, rank
    gram, sums = a.mT @ a, a.sum(-2)
    correction, rank = reproduce_correction(gram, sums, w0, solver, a.shape[-2], damping)
    return z0 + a @ correction, rank


def reproduce_correction(
    gram: Tensor, sums: Tensor, w0: Tensor, solver: RidgeSolver, rows: int, damping: float
) -> tuple[Tensor, int]:
    """(A'A + damping R)^-1 R W0 for a full symmetric ``gram`` (..., d, d) in float64, and the rank of A."""
    factor = solver.primal(lambda dtype: (gram.to(dtype, copy=True), sums.to(dtype)), rows, torch.float64)
    s2 = factor.scale.s2
    scale = (torch.ones_like(sums) if s2 is None else s2.sqrt()).unsqueeze(-1)
    c = factor.c.unsqueeze(-1)
    inverse, rank = _inverse(gram / (scale * scale.mT), scale * w0, damping * c, rows)
    return c * inverse / scale, rank


def _inverse(matrix: Tensor, right: Tensor, shift: Tensor, size: int) -> tuple[Tensor, int]:
    """(matrix + shift I)^-1 right, or the pseudo-inverse's for shift 0; and the least rank, if it was looked for."""
    if (shift > 0).all():
        shifted = matrix + shift * torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        return torch.cholesky_solve(right, torch.linalg.cholesky(shifted)), matrix.shape[-1]
    return pseudo_inverse(matrix, right, size)


def pseudo_inverse(matrix: Tensor, right: Tensor, size: int) -> tuple[Tensor, int]:
    """The pseudo-inverse of a Gram matrix (..., d, d) of ``size`` rows times ``right``; and the least rank."""
    values, vectors = torch.linalg.eigh(matrix)
    floor = torch.finfo(values.dtype).eps * max(matrix.shape[-1], size) * values[..., -1:]
    kept = values > floor
    inverse = torch.where(kept, 1 / torch.where(kept, values, 1.0), 0.0)
    return vectors @ (inverse.unsqueeze(-1) * (vectors.mT @ right)), int(kept.sum(-1).min())
