"""Which layers of a model make loops, and in which order they can be solved.

What recurs is a loop: layers that depend on what they gave before, one of which lacks inputs at its first use or is
called step by step. Layers beside it that are used several times are solved from all uses, too: those that depend on a
loop, and those that a loop depends on and whose first use lacks what is rare.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ts_lightning.engine.reference.dependence import Dependence
from ts_lightning.engine.survey.uses import Uses
from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers.base import TargetLayer
from ts_lightning.layers.loop import Loop, LoopableLayer


def put_in_loops(
    layers: Sequence[TargetLayer],
    dependence: Dependence,
    uses: Uses,
    joinable: Collection[str],
    stepwise: Collection[str],
) -> None:
    """Find the loops of a model, and tell its layers; what they were told before counts no longer.

    Args:
        layers: of the model.
        dependence: of the layers on others.
        uses: what their uses say.
        joinable: the names of those whose inputs can be joined.
        stepwise: the names of those that are called step by step.
    """
    for layer in layers:
        layer.stage = 0
        if isinstance(layer, LoopableLayer):
            layer.loop = None
    several = {x.name: x for x in layers if isinstance(x, LoopableLayer) and x.uses > 1 and x.name in joinable}
    lacks = {name for name in several if name in uses.missing or name in stepwise}
    components = dependence.components()
    recurring = [names for names in components if dependence.recurs(names)]
    feeding = dependence.ancestors(name for names in recurring if lacks.intersection(names) for name in names)
    added = _added_inputs(dependence, recurring, several, uses)
    lacks |= added | {name for name in several if name in uses.some and name in feeding}
    known = {layer.name: layer for layer in layers}
    stages: dict[str, int] = {}  # from which on the outputs of a layer are those of solved ones
    count = 0
    for names in components:
        given = [stages[source] for name in names for source in dependence.sources[name] if source not in names]
        before = max(given, default=0)
        recurs, own = dependence.recurs(names), [several[name] for name in names if name in several]
        begins = not lacks.isdisjoint(names) or (before > 0 and not recurs)
        if own and begins:
            for layer in own:
                states = uses.states.get(layer.name) if recurs and layer.name in uses.missing else None
                layer.loop, layer.stage = Loop(layer.uses, recurs, layer.name in added, states), count
            count += 1
        stages.update(dict.fromkeys(names, count if own and begins else before))
        for name in names:
            if name in known and not (begins and name in several):
                known[name].stage = before


def _added_inputs(
    dependence: Dependence, recurring: Sequence[Sequence[str]], several: Collection[str], uses: Uses
) -> set[str]:
    """The layers whose outputs are added to those of layers that are given nothing but states.

    A cell may be two layers, of the inputs and of the state.
    """
    found = set[str]()
    for names in recurring:
        states = [uses.states[name] for name in names if name in uses.missing and name in uses.states]
        if states and all(bool(of.all()) for of in states):
            given = {source for name in names for source in dependence.sources[name]}
            found |= {name for name in given.intersection(several) if not dependence.recurs([name])}
    return found


def unfit_steps(layer: TargetLayer, stepwise: bool) -> tuple[str, TargetSpaceError] | None:
    """Why a layer that is called step by step cannot be solved outside of a loop: in a few words, and as an error."""
    if not stepwise or layer.uses == 1:
        return None
    return "called step by step", TargetSpaceError(
        f"layer '{layer.name}' is called step by step, and its steps cannot be joined. Targets need the same samples "
        f"at every step, as many steps whatever the weights are, no projection, and method='scu'. Call a recurrent "
        f"module once for the whole sequence, or add '{layer.module_name}' to exclude."
    )
