"""What a target space will make of a model, without training it: what is solved, from how much, and what it costs.

The costs are counts of multiplications. A layer's share of a step in weight space is three times its forward on a
training batch (forward, and backward to inputs and weights). Target space adds the same on the reference batch, and the
solve with its gradient (:attr:`~ts_lightning.layers.binding.Size.products`). What has no weights, attention's scores
for one, is in neither. Networks of narrow layers take longer than counts tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ts_lightning.amount import amount
from ts_lightning.config import TargetSpaceConfig
from ts_lightning.engine.beginning import check_model
from ts_lightning.engine.names import is_matrix, kind_of, matches, plain_name
from ts_lightning.engine.reference.calls import Calls
from ts_lightning.engine.reference.reference_batch import Reference, ReferenceBatch
from ts_lightning.engine.reference.reference_pass import ReferencePass
from ts_lightning.engine.running.batches import batch_size
from ts_lightning.engine.survey.selection import Left
from ts_lightning.engine.survey.survey import choose
from ts_lightning.engine.targets.start import rows_setting
from ts_lightning.layers.base import TargetLayer
from ts_lightning.layers.binding import Size, StepUnit
from ts_lightning.layers.loop import LoopableLayer
from ts_lightning.layers.registry import inner_modules

_TITLES = ("layer", "kind", "solved", "rows", "inputs", "outputs", "system", "targets", "cost")
_SIDES = "<<<>>><>>"  # on which cells stand


@dataclass(frozen=True)
class Row:
    """One layer.

    Attributes:
        name: of the layer, or of the module that is left in weight space.
        kind: the module's class.
        why: it is not solved; None where it is.
        sizes: of its systems.
        targets: bytes of its targets.
    """

    name: str
    kind: str
    why: str | None = None
    sizes: tuple[Size, ...] = ()
    targets: int = 0

    @property
    def forward(self) -> int:
        """Multiplications of its forward on the reference batch."""
        return sum(s.groups * s.places * s.inputs * s.outputs for s in self.sizes)

    @property
    def solve(self) -> int:
        """Multiplications of its solve and gradient."""
        return sum(size.products for size in self.sizes)


@dataclass(frozen=True)
class Inspection:
    """What a target space will make of a model.

    Attributes:
        model: its class.
        rows: a row for each layer, in the model's order: those that are solved, then those that are not.
        solved: trainable parameters that are solved.
        parameters: all trainable parameters.
        samples: of the reference batch; None where nothing tells.
        batch_size: of training, for the comparison of costs; None for the reference batch's.
    """

    model: str
    rows: list[Row]
    solved: int
    parameters: int
    samples: int | None
    batch_size: int | None = None

    @property
    def targets(self) -> int:
        """Bytes of all targets."""
        return sum(row.targets for row in self.rows)

    @property
    def cost(self) -> float:
        """Multiplications of a step over those in weight space."""
        forward = 3 * sum(row.forward for row in self.rows)
        training = forward * (self.batch_size / self.samples if self.batch_size and self.samples else 1.0)
        return (training + forward + sum(row.solve for row in self.rows)) / max(training, 1.0)

    def __str__(self) -> str:
        """The table."""
        added = max(1, sum(3 * row.forward + row.solve for row in self.rows))
        cells = [_TITLES, *(_cells(row, added) for row in self.rows)]
        widths = [max(len(line[n]) for line in cells) for n in range(len(_TITLES))]
        lines = [
            "  ".join(format(cell, f"{side}{width}") for cell, side, width in zip(line, _SIDES, widths, strict=True))
            for line in cells
        ]
        return "\n".join([*self.facts(), "", *(line.rstrip() for line in lines)])

    def facts(self) -> list[str]:
        """The lines above the table."""
        solved = [row for row in self.rows if row.why is None]
        samples = "a reference batch of its own" if self.samples is None else amount(self.samples, "reference sample")
        batches = f"batches of {self.batch_size}" if self.batch_size else "batches as large as the reference batch"
        return [
            f"{self.model}: {amount(len(solved), 'layer')} solved, "
            f"{100 * self.solved / max(1, self.parameters):.1f} % of "
            f"{amount(self.parameters, 'trainable parameter')}; {samples}",
            f"targets: {_bytes(self.targets)}, as much again for every moment that the optimizer keeps",
            f"a step: about {self.cost:.1f} times the multiplications of weight space, with {batches}",
        ]


def inspect_model(
    model: nn.Module,
    reference: Reference,
    config: TargetSpaceConfig | None = None,
    forward: Callable[[Any], Any] | None = None,
    batch_size: int | None = None,
) -> Inspection:
    """Inspect a model, which stays as it is; lazy modules get their weights.

    Args:
        model: the model.
        reference: the reference batch, see :class:`~ts_lightning.TargetSpace`.
        config: the settings; ``None`` for the defaults.
        forward: how the model is run on the reference batch.
        batch_size: of training, for the comparison of costs.

    Raises:
        TypeError: the model is no module.
        TargetSpaceError: what the settings ask for cannot be solved, or nothing can.
    """
    check_model(model, "inspect")
    settings = TargetSpaceConfig.checked(config, "config") or TargetSpaceConfig()
    batch = ReferenceBatch.of(model, reference, forward)
    ReferencePass(batch, []).initialise()
    found = choose(batch, settings, None)
    generator, bound = torch.Generator().manual_seed(0), set[str]()

    def use(layer: TargetLayer, x: Any, calls: Calls) -> Any:
        if layer.name not in bound:
            bound.add(layer.name)
            every, rows = x, rows_setting(settings)
            if isinstance(layer, LoopableLayer) and layer.loop is not None:
                every, rows = layer.joined_alike(x), "all" if layer.loop.recurs else rows
            layer.adopt(layer.bind(every, rows, StepUnit(1.0), generator))
        return layer.produce(x, layer.parameters)

    with torch.no_grad():
        ReferencePass(batch, found.layers).run(use, found.layers)
    return inspection(batch, found.layers, list(found.left.values()), settings, batch_size)


def inspection(
    batch: ReferenceBatch,
    layers: Sequence[TargetLayer],
    left: Sequence[Left],
    config: TargetSpaceConfig,
    batch_size: int | None = None,
) -> Inspection:
    """The inspection of layers that are bound to a reference batch.

    Args:
        batch: the reference batch.
        layers: what is solved.
        left: what is not.
        config: the settings.
        batch_size: of training.
    """
    model = batch.model
    trainable = [p for p in model.parameters() if p.requires_grad]
    solved = {id(p) for layer in layers for p in layer.wholes}
    rows = [_row(layer) for layer in layers]
    rows += [Row(entry.name or "(the model)", entry.kind, entry.reason) for entry in left]
    rows += _others(model, config, solved, {entry.name for entry in left})
    return Inspection(
        model=type(model).__name__,
        rows=rows,
        solved=sum(p.numel() for p in trainable if id(p) in solved),
        parameters=sum(p.numel() for p in trainable),
        samples=_samples(batch),
        batch_size=batch_size,
    )


def _row(layer: TargetLayer) -> Row:
    like = layer.parameters[0]
    size = torch.promote_types(like.dtype, torch.float32).itemsize
    return Row(
        name=layer.name,
        kind=kind_of(layer.module),
        sizes=tuple(layer.sizes()),
        targets=layer.binding.shape.numel() * size,
    )


def _others(model: nn.Module, config: TargetSpaceConfig, solved: set[int], left: set[str]) -> list[Row]:
    """Modules with matrices that the settings leave out, or that are frozen."""
    modules = {plain_name(name): module for name, module in model.named_modules()}
    inner = {id(m): name for name, module in modules.items() for m in inner_modules(module)}
    rows = []
    for name, module in modules.items():
        matrices = [p for p in module.parameters(recurse=False) if is_matrix(p) and id(p) not in solved]
        if not matrices or name in left or inner.get(id(module)) in left:
            continue
        frozen = not any(p.requires_grad for p in matrices)
        excluded = matches(name, *config.exclude)
        why = "frozen" if frozen else "excluded" if excluded else "not among layers"
        rows.append(Row(name or "(the model)", kind_of(module), why))
    return rows


def _samples(batch: ReferenceBatch) -> int | None:
    if callable(batch.data):
        return None
    if batch.shards is not None:
        return batch.shards.samples
    return batch_size(batch.data)


def _cells(row: Row, added: int) -> tuple[str, ...]:
    if row.why is not None:
        return (row.name, row.kind, f"no: {row.why}", *[""] * 6)
    sizes = row.sizes
    each = dict.fromkeys((s.rows, s.places) for s in sizes)
    rows = " + ".join(f"{n:,}" if n == places else f"{n:,} of {places:,}" for n, places in each)
    groups = max((s.groups for s in sizes), default=1)
    form = " and ".join(dict.fromkeys("dual" if s.dual else "primal" for s in sizes))
    return (
        row.name,
        row.kind,
        "yes",
        rows,
        f"{max((s.inputs for s in sizes), default=0):,}",
        f"{sum(s.groups * s.outputs for s in sizes):,}",
        f"{groups} x {form}" if groups > 1 else form,
        _bytes(row.targets),
        f"{100 * (3 * row.forward + row.solve) / added:.0f} %",
    )


def _bytes(size: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1024  # type: ignore[assignment]
    return f"{size:.2f} GiB"
