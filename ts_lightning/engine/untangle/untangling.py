"""When the reference batch is gone through again, and the maps from targets to weights that are kept in between.

An untangling is a solve over the reference batch, which gives every layer its inputs A of now. Between two of them A
and R stay, so that W = P T with a P of each layer's own: no layer waits for another, and equal shapes are one batched
product. Gradients on weights go back through the graph of the last untangling, in which an earlier layer's targets
change the inputs of later ones. Without ``cascade_gradient`` there is no such graph: gradients are those of each
layer's own solve, P'G, and those of dense layers need no graph at all.

Source: none; docs/mathematics.md has the formulas, and docs/cost.md says what is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn

from ts_lightning.config import TargetSpaceConfig
from ts_lightning.engine.cuda_graphs import Solved
from ts_lightning.engine.targets.trained import Trained
from ts_lightning.engine.untangle.kept_factors import KeptFactors
from ts_lightning.engine.untangle.kept_layer import KeptLayer
from ts_lightning.engine.untangle.kept_maps import KeptMaps
from ts_lightning.engine.untangle.kept_stack import KeptStack
from ts_lightning.engine.untangle.lasting import Lasting
from ts_lightning.engine.untangle.period import Period
from ts_lightning.engine.untangle.values import Values
from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers.base import TargetLayer
from ts_lightning.ridge.kept import KeptMap
from ts_lightning.ridge.processes import Shards


class Untangling:
    """The period, and how far it has come.

    Args:
        config: says how often to untangle, and whether gradients pass through later layers' inputs.
        layers: those of the target space.
        trained: what is trained.
        model: the model.

    Attributes:
        active: whether maps or graphs may serve more than one solve or pull-back.
        lasting: whether those of the last untangling do, or of the next, if there was none.
        period: how many solves there are from one untangling to the next.
        since: solves since the last untangling.
    """

    def __init__(
        self, config: TargetSpaceConfig, layers: Sequence[TargetLayer], trained: Trained, model: nn.Module
    ) -> None:
        self._skips, self._through = config.untangle != 1, config.cascade_gradient
        self.active = self.lasting = self._skips or not self._through
        self.period = Period(config.untangle, self._depth)
        self.since = 0
        self._layers, self._trained, self._model = layers, trained, model
        self._stackable = {layer.name for layer in layers if KeptStack.fits(layer)} if self.active else set()
        self._by_map = set() if self._through else self._stackable  # layers whose gradients need no graph
        self._maps: KeptMaps | None = None
        self._factors = KeptFactors(layers)
        self._found: list[KeptLayer] = []
        self._began: Values | None = None  # what the last untangling was made from
        self._graph = Lasting((), ())  # of the last untangling
        self._count = 0  # of trained parameters at the last untangling
        self._resumed: tuple[int, Values] | None = None  # of a state: how far its period had come, and its beginning
        self._ended = False  # whether the period was cut short
        self._restored = False  # whether the next solve is the last one's repetition
        self._checked = False

    def _depth(self) -> int:
        """Through how many layers, and steps of a sequence or uses of a layer, the longest way leads at most."""
        return len(self._layers) + max(layer.uses * layer.binding.steps for layer in self._layers) - 1

    @property
    def scheduled(self) -> bool:
        """Whether the next solve is the last of the period."""
        going_on = self._maps is not None or not self.lasting
        return going_on and not self._restored and self.since + 1 >= self.period.length

    @property
    def due(self) -> bool:
        """Whether the next solve has to untangle."""
        observed = any(solver.observer is not None for layer in self._layers for solver in layer.solvers)
        return self._maps is None or self._ended or self.scheduled or observed or self.outdated

    @property
    def outdated(self) -> bool:
        """Whether the graph of the last untangling lacks what has been thawed, or was built from what has changed."""
        return self.active and (self._count != self._trained.count() or self._graph.outdated)

    def end_period(self) -> None:
        """Untangle in the next solve."""
        self._ended = True

    def forget(self) -> None:
        """Free the maps, which are of other inputs, layers or targets from here on."""
        self._maps, self._restored, self.since, self.lasting = None, False, 0, self.active
        self._began = self._resumed = None

    def begin(self) -> AbstractContextManager[None]:
        """A pass over the reference batch begins, which calls :meth:`solve` for its layers in this context.

        Its graph serves until the next one begins, if anything of it does.
        """
        self._found = []
        self.lasting = self.active and not (self._through and self.period.idle)
        if not self.active:
            return nullcontext()
        self._maps, self._resumed, self._began, self._graph = None, None, None, Lasting((), ())
        self._count = self._trained.count()
        if not self.lasting:
            return nullcontext()
        if self._skips:
            self._began = Values.of(self._trained, self._model)
        if len(self._by_map) < len(self._layers):
            self._graph = Lasting(self._trained.changing(), self._trained.frozen())
        return self._graph.graph() if self._through else nullcontext()

    def solve(self, layer: TargetLayer, x: Any, target: Tensor, shards: Shards | None) -> tuple[list[Tensor], Any]:
        """The layer's own solve, whose maps are kept."""
        if not self.lasting:
            return layer.solve(x, target)
        if layer.name in self._by_map:
            solved, maps = _with_maps(layer, x, target.detach())
        elif self._skips:
            with nullcontext() if self._through else self._graph.graph():
                solved, maps = _with_maps(layer, x, target)
        else:
            with self._graph.graph():
                return layer.solve(x, target)
        if not self._checked and len(layer.kept_targets(target.detach())) != len(maps):
            raise TargetSpaceError(
                f"layer '{layer.name}': {type(layer).__name__} has targets for {len(layer.kept_targets(target))} "
                f"systems, and {len(maps)} were solved. Use untangle=1, or add '{layer.module_name}' to exclude."
            )
        self._found.append(
            KeptLayer.of(layer, maps, target, solved[0], shards) if self._skips else KeptLayer(layer, maps)
        )
        return solved

    def end(self, shards: Shards | None) -> None:
        """The pass has ended: from here on its maps are in force."""
        if self.lasting:
            self._maps = KeptMaps(self._found, self._stackable, shards)
            self._checked = True
        if self._skips:
            self._factors.look(served=self.since > 0)
        self._found = []
        self.since, self._ended, self._restored = 0, False, False

    def advance(self) -> None:
        """A solve by the kept maps follows."""
        self.since += not self._restored
        self._restored = False

    def kept(self, targets: Mapping[str, Tensor]) -> Solved:
        """The solved parameters and their values by the maps in force; valid until the next call."""
        assert self._maps is not None
        return self._maps.solve(targets, self._products)

    def pull(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The gradients on targets that maps give, and no graph, by layer name."""
        return self._maps.pull(targets, self._products) if self._by_map and self._maps is not None else {}

    @property
    def _products(self) -> int:
        """How many a map serves: one for each solve by it, and one for each gradient that does not pass on."""
        return self.period.length if self._through else 2 * self.period.length - 1

    def judged(self) -> bool:
        """Whether the untangling that follows is to be judged, by what the maps give for present targets."""
        return self.scheduled and not self._ended and self.period.tick()

    def resume(self, untangle: Callable[[], object]) -> None:
        """Go on within the period of a state, where one was loaded: its untangling is made once more.

        Args:
            untangle: makes one.
        """
        if self._resumed is None:
            return
        (since, began), present = self._resumed, Values.of(self._trained, self._model)
        began.write(self._trained)
        try:
            untangle()
        finally:
            present.write(self._trained)
        self.since, self._restored = since, True

    def state_dict(self, whole: Callable[[str, Tensor], Tensor]) -> dict[str, Any]:
        """What :meth:`load_state_dict` goes on from: how far the period has come, and what was trained at its begin.

        Args:
            whole: a layer's targets of all processes for those of this process.
        """
        since, began = (self.since, self._began) if self._resumed is None else self._resumed
        if since == 0 or began is None:
            return {**self.period.state_dict(), "since": 0}
        return {**self.period.state_dict(), "since": since, **began.state_dict(self._model, whole)}

    def load_state_dict(self, state: Mapping[str, Any], share: Callable[[str, Tensor], Tensor]) -> bool:
        """Go on within the period of a state at the next solve.

        Args:
            state: what :meth:`state_dict` gave.
            share: this process's targets of a layer for those of all processes.

        Returns:
            Whether the next solve is one by kept maps. It is not where the period has just begun, nor where the state
            is of other parameters.
        """
        self.period.load_state_dict(state)
        if not self._skips or state["since"] == 0:
            return False
        began = Values.of_state(state, self._trained, self._model, share)
        if began is not None:
            self._resumed = state["since"], began
        return began is not None


def _with_maps(layer: TargetLayer, x: Any, target: Tensor) -> tuple[tuple[list[Tensor], Any], list[KeptMap]]:
    """A layer's solve, and the maps of its systems."""
    maps: list[KeptMap] = []
    for solver in layer.solvers:
        solver.keep = maps.append
    try:
        return layer.solve(x, target), maps
    finally:
        for solver in layer.solvers:
            solver.keep = None
