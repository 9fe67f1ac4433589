"""A dry run of a model on the reference batch, ahead of the start: which of the chosen layers can be solved in it.

The model runs with its weights, which also shows what weights functions apply, and with random ones. A layer is left
in weight space if a run does not call it, if its input has no form that it can be solved from, or if the number of its
rows is not the same in all runs: it then follows the weights (masks, routing, early exits), and would change from
solve to solve.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from ts_lightning.config import TargetSpaceConfig
from ts_lightning.engine.names import is_matrix, plain_name
from ts_lightning.engine.reference.call_sites import passes_by, refused_call, unfit_call, with_other_weights
from ts_lightning.engine.reference.calls import Calls
from ts_lightning.engine.reference.dependence import Dependence, FollowedCalls
from ts_lightning.engine.reference.loops import put_back_in_loops
from ts_lightning.engine.reference.reference_batch import ReferenceBatch
from ts_lightning.engine.reference.reference_pass import ReferencePass, unreached
from ts_lightning.engine.reference.walk import derived
from ts_lightning.engine.reference.watch import Watch
from ts_lightning.engine.running.batches import batch_size, tensors_in
from ts_lightning.engine.survey.beside import leave_what_matters
from ts_lightning.engine.survey.functions import functional_layers, leave_unfit, watched
from ts_lightning.engine.survey.loop_check import missed_sources
from ts_lightning.engine.survey.loop_search import put_in_loops, unfit_steps
from ts_lightning.engine.survey.random_weights import Draws
from ts_lightning.engine.survey.read_ahead import leave_read_ahead
from ts_lightning.engine.survey.rest import check_reached, name_the_rest, use_of
from ts_lightning.engine.survey.selection import Left, Selection, select_layers
from ts_lightning.engine.survey.uses import Uses
from ts_lightning.engine.targets.start import empty
from ts_lightning.engine.targets.trained import as_when_made
from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers.base import TargetLayer
from ts_lightning.layers.binding import StepUnit
from ts_lightning.layers.loop import LoopableLayer, loop_of

_PROBES = 3  # runs with random weights; the last one where rows follow the weights at all
_LOOP_PROBES = 6  # at least, where layers may be in loops, whose number of steps may follow weights
_ODD_PROBES = 8  # the same, where layers have other rows than so many for each sample, as experts of a router


class Survey:
    """What one dry run sees of each layer.

    Args:
        layers: to look at.
        config: the settings.
        generator: for random weights; None for the layers' own.
        uses: sees all uses of layers.
        dependence: sees what depends on them.

    Attributes:
        places: of each layer's first use, by its name.
        uses: how often each layer was used.
        joinable: the names of the layers whose inputs can be joined, as those of a loop are.
        stepwise: of the layers that are given a step of a sequence.
        refusals: why a layer cannot be solved from its input: in a few words, and as an error.
        beside: which calls of a layer are beside the solves, counted from 0.
        apart: why a layer cannot be solved at some of its calls, in a few words.
    """

    def __init__(
        self,
        layers: Sequence[TargetLayer],
        config: TargetSpaceConfig,
        generator: torch.Generator | None = None,
        uses: Uses | None = None,
        dependence: Dependence | None = None,
    ) -> None:
        self.places: dict[str, torch.Size] = {}
        self.uses: dict[str, int] = {}
        self.joinable: set[str] = set()
        self.stepwise: set[str] = set()
        self.refusals: dict[str, tuple[str, TargetSpaceError]] = {}
        self.beside: dict[str, set[int]] = {}
        self.apart: dict[str, str] = {}
        self._layers, self._config, self._draws, self._own = layers, config, Draws(generator), generator is None
        self._seen, self._dependence = uses, dependence

    @torch.enable_grad()  # as in a solve, so that it shows where forward switches gradients off
    def make(self, batch: ReferenceBatch, watch: Watch | None = None) -> Survey:
        """Run the model; ``watch`` sees what functions do with its parameters."""
        given = (self._layers, self._use, watch)
        calls = Calls(*given) if self._dependence is None else FollowedCalls(self._dependence, *given)
        calls.bounded = not self._own
        ReferencePass(batch, self._layers).run(self._use, self._layers, None, calls)
        self.joinable -= self.apart.keys()
        return self

    def _use(self, layer: TargetLayer, x: Any, calls: Calls) -> Any:
        call = self.uses.get(layer.name, 0)
        self.uses[layer.name] = call + 1
        first, why = layer.name not in self.places, unfit_call(layer, x, calls.thread)
        if why is not None and passes_by(why):
            self.apart.setdefault(layer.name, why)
            if first or with_other_weights(layer):
                self.beside.setdefault(layer.name, set()).add(call)
        elif why is not None:
            self.refusals.setdefault(layer.name, (why, refused_call(layer, why)))
        if first and why is None:
            self._bind(layer, x)
            self._join(layer, x)
        elif layer.name in self.joinable and layer.places(x) != self.places[layer.name]:
            self.joinable.discard(layer.name)
        if self._seen is not None and why is None and layer.name not in self.refusals:
            self._seen.see(layer, x)
        passed = layer.produce(x, self._draws.of(layer))
        if call not in self.beside.get(layer.name, ()):
            self._look(layer, x, passed, calls, first=first)
        return passed

    def _look(self, layer: TargetLayer, x: Any, passed: Any, calls: Calls, *, first: bool) -> None:
        """What a layer passed on, and whether its input was derivatives, which only later uses may have."""
        if self._dependence is not None:
            self._dependence.use(layer.name, x, passed)
        later = not first and layer.name not in self.joinable
        if later or not calls.derivatives.reach(list(tensors_in(passed))):
            return
        if first:
            self.refusals[layer.name] = "behind derivatives that forward computes", derived(layer)
        self.joinable.discard(layer.name)

    def _join(self, layer: TargetLayer, x: Any) -> None:
        if isinstance(layer, LoopableLayer) and layer.name not in self.refusals:
            if layer.fits_loop(x):
                self.joinable.add(layer.name)
            if layer.is_step(x):
                self.stepwise.add(layer.name)

    @torch.no_grad()
    def _bind(self, layer: TargetLayer, x: Any) -> None:
        if x.numel() == 0:
            self.refusals[layer.name] = "an empty input on the reference batch", empty(layer, x)
            self.places[layer.name] = layer.places(x)
            return
        rows = self._config.reference.rows
        try:
            binding = layer.bind(x, rows, StepUnit(1.0), torch.Generator().manual_seed(0))
        except TargetSpaceError as error:
            self.refusals[layer.name] = "an input of another form", error
        else:
            self.places[layer.name] = binding.places


def choose(
    batch: ReferenceBatch, config: TargetSpaceConfig, state: Mapping[str, Any] | None, *, alone: bool = True
) -> Selection:
    """Find what is solved of the batch's model, and what is left in weight space.

    An earlier state says itself which layers were frozen or could not be solved when its training started, and, of a
    process that trains ``alone``, which the forward called no more when it was written.

    Raises:
        TargetSpaceError: what the user asked for cannot be solved, or nothing can.
    """
    model = batch.model
    with as_when_made(model, state):
        found = select_layers(model, config)
        # a layer that is solved has its module's name, which the rest of the module is left under
        left = [] if state is None else [Left(*why) for why in state.get("left", ()) if why[0] not in state["targets"]]
        known = {one.name: one for one in left}
        found.left.update(known)
        found.layers = [layer for layer in found.layers if layer.module_name not in known]
        loops = None if state is None else state.get("loops", {})
        idle = set() if state is None or not alone else {*state.get("idle", ())}.difference(state.get("loops", ()))
        watch = survey(batch, found, config, loops, idle)
        if state is not None and known:  # of a time when parameters of some functions stayed
            holders = {id(module): plain_name(name) for name, module in model.named_modules()}
            found.layers = [x for x in found.layers if x.name in state["targets"] or holders[id(x.module)] not in known]
        name_the_rest(model, found, config, watch)
        found.check(model)
    if state is not None:
        check_reached(found, state.get("targets", ()))
    return found


def survey(
    batch: ReferenceBatch,
    found: Selection,
    config: TargetSpaceConfig,
    loops: Mapping[str, Sequence[int]] | None = None,
    idle: Collection[str] = (),
) -> Watch:
    """Add the layers to ``found`` that functions are, and leave those in weight space that ``batch`` cannot solve.

    Args:
        batch: the reference batch.
        found: the chosen layers.
        config: the settings.
        loops: of an earlier state: number and uses of each layer's loop, by layer name; ``None`` looks for loops.
        idle: modules of an earlier state that need not be called.

    Returns:
        What functions do with the model's parameters.
    """
    watch, probe = watched(batch.model), loops is None
    first = Survey(found.layers, config).make(batch, watch)
    left = leave_unfit(found, watch, first.uses)
    functions = functional_layers(batch.model, config, found, watch, first.uses, left)
    if functions:
        weights = {id(layer.wholes[0]) for layer in functions}
        found.layers = [layer for layer in found.layers if id(layer.parameters[0]) not in weights] + functions
        order = {id(p): index for index, p in enumerate(batch.model.parameters())}
        found.layers.sort(key=lambda layer: order[id(layer.wholes[0])])
        first = Survey(found.layers, config).make(batch)
    for layer in found.layers:
        layer.uses, layer.beside = first.uses.get(layer.name, 1), frozenset(first.beside.get(layer.name, ()))
    moved = _moved(batch, found.layers, config, first) if probe else {}
    several = [name for name, count in first.uses.items() if count > 1] if probe else []
    uses, dependence = _followed(batch, found.layers, config, several)
    joinable = first.joinable - moved.keys() if config.method == "scu" else set[str]()
    if loops is None:
        put_in_loops(found.layers, dependence, uses, joinable, first.stepwise)
        able = [layer for layer in found.layers if not layer.beside and _why(layer, first, moved, watch) is None]
        while dependence.add(missed_sources(batch, able)):
            put_in_loops(found.layers, dependence, uses, joinable, first.stepwise)
        plain = [layer for layer in found.layers if layer.name in first.places]
        leave_what_matters(batch, plain, first.apart, first.refusals)
    else:
        put_back_in_loops(found.layers, loops)
    for layer in [x for x in found.layers if x.module_name not in idle or x.name in first.uses]:
        why = _why(layer, first, moved, watch)
        if why is None and loop_of(layer) is None:
            why = unfit_steps(layer, layer.name in first.stepwise) or uses.why(layer)
        if why is not None and layer.module_name not in found.left:
            found.leave(layer.module_name, layer.module, *why)
    if probe:
        leave_read_ahead(batch, found, watch)
    return watch


def _followed(
    batch: ReferenceBatch, layers: Sequence[TargetLayer], config: TargetSpaceConfig, several: Sequence[str]
) -> tuple[Uses, Dependence]:
    """What a run with random weights shows of the layers that are used several times; with their own, if it fails."""
    generators = (torch.Generator().manual_seed(0), None) if several else ()
    for generator in generators:
        uses, dependence = Uses(several), Dependence()
        try:
            Survey(layers, config, generator, uses, dependence).make(batch)
        except Exception:  # of a forward that checks its numbers
            continue
        return uses, dependence
    return Uses(()), Dependence()


def _moved(
    batch: ReferenceBatch, layers: Sequence[TargetLayer], config: TargetSpaceConfig, first: Survey
) -> dict[str, torch.Size | None]:
    """Where layers are applied with random weights, None for nowhere, of those with other places than at ``first``.

    By chance all may be where they were at one draw of weights, as two experts of a router, so that there are two. If
    layers have moved by then, others may have as many rows by chance, and there is a third. Of few samples chance is
    not rare, so that layers with an odd number of rows are looked at until they move, up to a bound. Layers that may be
    in a loop are looked at more often, too: a loop that ends at two steps or later has two steps at every other draw.
    If they are used more or less often there, they are no longer layers that may.
    """
    generator = torch.Generator().manual_seed(0)
    moved: dict[str, torch.Size | None] = {}
    samples = 0 if callable(batch.data) else batch_size(batch.data)
    least = _LOOP_PROBES if any(first.uses[name] > 1 for name in first.joinable) else 2
    odd = {name for name, here in first.places.items() if samples and here.numel() % samples}
    for probe in range(_ODD_PROBES if odd else max(_PROBES, least)):
        survey = Survey(layers, config, generator)
        try:
            survey.make(batch)
        except Exception:  # of a forward that checks its numbers, or goes on until they rest; training names the layer
            first.joinable -= {name for name, count in survey.uses.items() if count > first.uses.get(name, 0)}
            break
        places = {name: survey.places.get(name) for name in first.places}
        moved.update((name, there) for name, there in places.items() if there != first.places[name])
        first.joinable &= {name for name in survey.joinable if survey.uses[name] == first.uses.get(name)}
        if probe + 1 >= least and odd <= moved.keys() and (not moved or probe >= _PROBES - 1):
            break
    return moved


def _why(
    layer: TargetLayer, first: Survey, moved: Mapping[str, torch.Size | None], watch: Watch
) -> tuple[str, TargetSpaceError] | None:
    """Why a layer cannot be solved, after a run with its own weights and those that show what ``moved``."""
    if layer.name not in first.uses:
        return use_of([p for p in layer.parameters if is_matrix(p)], watch), unreached(layer.module_name)
    if layer.name in first.refusals:
        return first.refusals[layer.name]
    if layer.name not in first.places:
        return first.apart[layer.name], refused_call(layer, first.apart[layer.name])
    if layer.name not in moved:
        return None
    there = "not at all" if (found := moved[layer.name]) is None else f"at {tuple(found)}"
    return "its rows depend on weights", TargetSpaceError(
        f"layer '{layer.name}' is applied at {tuple(first.places[layer.name])} places of the reference batch, and with "
        f"other weights {there}. Targets need the same rows at every step: add '{layer.module_name}' to exclude."
    )
