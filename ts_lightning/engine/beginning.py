"""A cascade's targets on a reference batch: made anew, taken from a state, or carried over to another batch."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ts_lightning.config import Init, TargetSpaceConfig
from ts_lightning.engine.reference.loops import loops_in_state
from ts_lightning.engine.reference.reference_batch import ReferenceBatch
from ts_lightning.engine.reference.reference_pass import ReferencePass
from ts_lightning.engine.solving.cascade import Cascade
from ts_lightning.engine.targets.start import start
from ts_lightning.engine.targets.state_checks import check_state
from ts_lightning.engine.twins import say_copies
from ts_lightning.errors import instead


def check_model(model: nn.Module, caller: str) -> None:
    """Raise TypeError if a model is none, in the name of the function or class that was given it."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{caller}: found {instead(model)} as the model; expected a module, as in {caller}(model, x).")


def settings_of(config: TargetSpaceConfig | None, model: nn.Module, *, goes_on: bool) -> TargetSpaceConfig:
    """The settings of a model's space, the defaults for None; what is without effect is said.

    Args:
        config: as a user gave them.
        model: of the space.
        goes_on: whether it goes on from a state, so that no start counts.

    Raises:
        TypeError: they are, or the model is, something else.
        ValueError: ``until`` is set, for which nobody counts steps here.
    """
    check_model(model, "TargetSpace")
    settings = TargetSpaceConfig.checked(config, "config") or TargetSpaceConfig()
    if settings.until is not None:
        raise ValueError(
            f"until={settings.until}: a Trainer counts steps for it. In a loop of your own, call space.release() after "
            f"so many of them, and train model.parameters() with another optimizer."
        )
    if not goes_on:
        _say_idle(settings)
    return settings


def _say_idle(settings: TargetSpaceConfig) -> None:
    """Name settings of the start that are without effect beside another one."""
    if settings.init == "weights" and settings.init_std is not None:
        warnings.warn(
            f"init_std={settings.init_std:g} is without effect beside init='weights', whose targets start from the "
            f"model's weights. Leave one of the two out.",
            stacklevel=4,
        )


def from_weights(settings: TargetSpaceConfig) -> TargetSpaceConfig:
    """The settings of a start from the weights, where those of a user may say another one."""
    return settings if settings.init == "weights" else replace(settings, init="weights", init_std=None)


class Beginning:
    """How the targets of a cascade came about, and what a state says of them.

    Args:
        cascade: the layers.
        config: the settings.
        given: the names of the layers that ``init="auto"`` starts from their weights.
    """

    def __init__(self, cascade: Cascade, config: TargetSpaceConfig, given: Collection[str]) -> None:
        self._cascade, self._config, self._given = cascade, config, given
        self._rows: dict[str, Tensor] = {}
        self._places: dict[str, torch.Size] = {}

    def begin(
        self, batch: ReferenceBatch, init: Init | Literal["refresh"], state: Mapping[str, Any] | None = None
    ) -> float:
        """Make or take the targets on a reference batch, and keep this process's share of both.

        Args:
            batch: the reference batch, whole.
            init: how targets start; "refresh" reproduces the present weights.
            state: what :meth:`state_dict` gave, to start from in the place of ``init``.

        Returns:
            At a refresh the largest change of any of the model's outputs on the batch, otherwise 0.
        """
        cascade = self._cascade
        cascade.partition.reset(cascade.layers)
        cascade.solution.release()
        cascade.untangling.forget()
        cascade.outside.pending = None
        generator = torch.Generator().manual_seed(batch.seed)
        constant = not self._config.cascade_gradient
        run = ReferencePass(batch, cascade.layers, constant=constant).with_fastest_layout()
        cascade.reference = run
        if state is not None:
            cascade.trained.load_state_dict(state)
        elif init not in ("refresh", "weights"):
            say_copies(cascade.model, cascade.layers, self._given)
        before = run.outputs() if init == "refresh" else []
        started = start(run, cascade.layers, self._config, init, state, generator, self._given, cascade.trained.held)
        self._rows = {layer.name: layer.rows.cpu() for layer in cascade.layers if layer.rows is not None}
        self._places = started.places
        cascade.take(started.targets)
        cascade.partition.same(list(cascade.targets.values()))
        cascade.solve()
        change = _change(run.outputs(), before) if before else 0.0
        if started.deficient:
            layers = ", ".join(f"'{name}' ({rank} of {columns})" for name, rank, columns in started.deficient)
            warnings.warn(
                f"A new reference batch: its rows do not span the inputs of {layers}, so the nearest weights were "
                f"taken there. The largest change of any output on it is {change:.3g}. A larger reference batch, or "
                f"more reference.rows, keeps the function exactly.",
                stacklevel=4,
            )
        cascade.reference, targets = cascade.partition.cut(run, cascade.layers, started)
        cascade.take(targets)
        if cascade.partition.shards is not None:
            cascade.untangling.forget()
            cascade.solve()
        if state is not None and self._restore_period(state):
            cascade.solve()
        if state is not None and "written" in state:
            cascade.outside.load_state_dict(state["written"])
        return change

    def refresh(self, batch: ReferenceBatch) -> float:
        """Take another reference batch; the targets keep their Parameters. Returns the largest change of an output."""
        cascade = self._cascade
        cascade.trained.settle()
        kept = cascade.targets
        change = self.begin(batch, "refresh")
        cascade.solution.drop()
        if any(target.shape != cascade.targets[name].shape for name, target in kept.items()):
            gc.collect()  # graphs in cycles, for as long as which autograd expects gradients of the old shapes
        for name, target in kept.items():
            if target.shape != cascade.targets[name].shape:
                target.take_grad()  # that of the old samples
                target.former = target.shape
            target.data, target.shards = cascade.targets[name].data, cascade.targets[name].shards
            cascade.targets[name] = target
        cascade.untangling.forget()
        cascade.solve()
        return change

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on but for what is left in weight space; see :meth:`TargetSpace.state_dict`."""
        cascade = self._cascade
        partition, layers, untangling = cascade.partition, cascade.layers, cascade.untangling
        return {
            "targets": {name: partition.whole(name, target.detach()) for name, target in cascade.targets.items()},
            "rows": dict(self._rows),
            "places": {name: list(places) for name, places in self._places.items()},
            "units": {layer.name: layer.unit for layer in layers},
            "loops": loops_in_state(layers),
            "anchors": {layer.name: list(layer.anchor) for layer in layers if layer.anchor is not None},
            "written": cascade.outside.state_dict(),
            **cascade.trained.state_dict(),
            **cascade.reference.batch.state_dict(),
            **({"untangling": untangling.state_dict(partition.whole)} if untangling.active else {}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to the targets of an earlier state.

        Raises:
            TargetSpaceError: the state is of other layers, rows or samples.
        """
        cascade = self._cascade
        check_state(self.state_dict(), state)
        with torch.no_grad():
            for name, target in cascade.targets.items():
                target.copy_(cascade.partition.share(name, state["targets"][name]))
        for layer in cascade.layers:
            anchor = state.get("anchors", {}).get(layer.name)
            layer.anchor_at(None if anchor is None else [w0.to(cascade.device) for w0 in anchor])
        cascade.untangling.forget()
        self._restore_period(state)
        cascade.solution.drop()
        cascade.trained.load_state_dict(state)
        cascade.outside.pending = state.get("written")

    def _restore_period(self, state: Mapping[str, Any]) -> bool:
        """Go on within the period of a state; whether its next solve is one by kept maps."""
        cascade = self._cascade
        return "untangling" in state and cascade.untangling.load_state_dict(
            state["untangling"], cascade.partition.share
        )


def _change(after: Sequence[Tensor], before: Sequence[Tensor]) -> float:
    """The largest change of any number."""
    return max((float((new - old).abs().max()) for new, old in zip(after, before, strict=True)), default=0.0)
