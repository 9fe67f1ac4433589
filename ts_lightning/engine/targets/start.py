"""How the targets start: from the reference batch, given weights, or an earlier state; and each process's share.

Where several processes share the reference batch, each of them makes the start from the whole of it, as one process
would, and keeps its share.

The layers are solved as in every later solve, with gradients: PyTorch may compute a product in another way where they
are wanted, and targets that reproduce weights do so to the last bit on the same inputs alone.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ts_lightning.config import Init, Rows, TargetSpaceConfig
from ts_lightning.engine.reference.loops import OnTargets
from ts_lightning.engine.reference.reference_pass import ReferencePass
from ts_lightning.engine.targets.state_checks import check_names, check_rows, restored
from ts_lightning.engine.targets.target import Target
from ts_lightning.errors import TargetSpaceError, Unreached
from ts_lightning.layers.base import TargetLayer
from ts_lightning.layers.binding import Binding, StepUnit
from ts_lightning.layers.loop import INPUTS_STD, STEP_SHARE, LoopableLayer, loop_of, recurs
from ts_lightning.layers.reproduce import START_DAMPING
from ts_lightning.ridge.processes import Cut, Shards, relative_difference

_STEP_SCALE = 50.0  # of a single layer; docs/defaults.md
_READOUT = 0.1  # of init_std: the last layer starts near zero, so that no class is preferred; docs/defaults.md
_SAME = 1e-4  # of the outputs' norm, up to which two ways of solving are one


class Start(NamedTuple):
    """What the first reference pass gave.

    Attributes:
        targets: by layer name, in the layers' order.
        places: of each layer, see :meth:`TargetLayer.places`.
        deficient: layers whose rows do not span their inputs: name, rank, inputs; looked for in a refresh.
    """

    targets: dict[str, Target]
    places: dict[str, torch.Size]
    deficient: list[tuple[str, int, int]]


def empty(layer: TargetLayer, x: Any) -> TargetSpaceError:
    """The error of a layer without rows."""
    return TargetSpaceError(
        f"layer '{layer.name}' received an empty input, {tuple(x.shape)}, from the reference batch. Expected at least "
        f"one sample: check reference_batch() and the training data."
    )


def rows_setting(config: TargetSpaceConfig) -> Rows:
    """The setting ``reference.rows``; OCU passes targets on, and needs all."""
    return "all" if config.method == "ocu" and config.reference.rows == "auto" else config.reference.rows


def project(layer: TargetLayer, x: Any, target: Tensor) -> tuple[list[Tensor], Any]:
    """Replace a layer's target by what its solution achieves on input ``x``, for which it is solved again."""
    with torch.no_grad():
        values, _ = layer.solve(x, target)
        target.copy_(layer.achieved(x, values)).div_(layer.unit)
    return layer.solve(x, target)


@torch.enable_grad()
def start(
    run: ReferencePass,
    layers: Sequence[TargetLayer],
    config: TargetSpaceConfig,
    init: Init | Literal["refresh"],
    state: Mapping[str, Any] | None,
    generator: torch.Generator,
    given: Collection[str],
    held: Collection[str],
) -> Start:
    """Fix each layer's rows and unit, and make its targets, in one walk.

    Args:
        run: the reference pass.
        layers: what to bind.
        config: the settings; ``init`` takes the place of theirs.
        init: how targets start; "refresh" takes the present weights, and solves around zero where a layer did.
        state: what :meth:`TargetSpace.state_dict` gave, to start from in the place of ``init``.
        generator: for sampled rows and random targets.
        given: the names of the layers that start from the weights where ``init`` is "auto".
        held: the names of layers that run with the weights that they have.

    Raises:
        TargetSpaceError: the reference batch is empty, or the state is of other layers, shapes or rows.
    """
    found = Start({}, {}, [])
    rows = rows_setting(config)
    if state is not None:
        check_names(layers, state)
    share = min(STEP_SHARE if recurs(layer) else layer.step_share for layer in layers)
    if config.step_scale == "auto":
        step = StepUnit(share * _STEP_SCALE / len(layers) ** 0.25, auto=True, share=share)
    else:
        step = StepUnit(config.step_scale)

    kept: set[str] = set()  # layers that are solved around the weights that they have
    drawn: dict[str, list[Tensor]] = {}  # weights of layers in loops

    @torch.no_grad()
    def bind(layer: TargetLayer, x: Any) -> None:
        if x.numel() == 0:
            raise empty(layer, x)
        if state is not None:
            check_rows(layer, layer.places(x), state)
        chosen = "all" if recurs(layer) else rows if state is None else state["rows"].get(layer.name, "all")
        anchored, layer.anchor = layer.anchor is not None or recurs(layer), None
        keeps = init == "weights" or layer.name in given or layer.name in held or (init == "refresh" and anchored)
        if keeps:
            kept.add(layer.name)
        before = state["units"][layer.name] if state is not None else layer.unit if init == "refresh" else None
        exact = keeps if before is None else math.frexp(before)[0] == 0.5  # which 0.5 times a power of two is
        binding = layer.bind(x, chosen, replace(step, exact=exact), generator)
        layer.adopt(binding)
        found.places[layer.name] = binding.places

    @torch.no_grad()
    def begin(layer: TargetLayer, x: Any) -> None:
        shape = layer.binding.shape
        unit = layer.unit  # of what ``values`` is in units of the outputs
        if state is not None and layer.name not in held:
            values = restored(layer, shape, state)
            unit = layer.unit / state["units"][layer.name]
            if layer.name in state.get("anchors", {}):
                layer.anchor_at([w0.to(values) for w0 in state["anchors"][layer.name]])
        elif layer.name in kept or not layer.varies(x):
            values, unit = layer.anchored_targets(x), 1.0
        elif init == "refresh":
            values, rank, columns = layer.reproduce(x, layer.parameters, 0.0)
            if rank < columns:
                found.deficient.append((layer.name, rank, columns))
        elif layer.name in drawn:
            values = layer.reproduce(x, drawn[layer.name], START_DAMPING)[0]
        elif init in ("auto", "normalised"):
            loop = loop_of(layer)
            std = INPUTS_STD if loop is not None and loop.added else layer.normalised_std
            values = layer.start(x, config.init_std or std, generator)
        else:
            std = config.init_std or layer.projected_std
            values = nn.init.trunc_normal_(torch.empty(shape), std=std, a=-2 * std, b=2 * std, generator=generator)
        like = layer.parameters[0]
        dtype = torch.promote_types(like.dtype, torch.float32)
        target = (values / unit).to(device=like.device, dtype=dtype, copy=True)
        found.targets[layer.name] = Target(target)

    on_targets = OnTargets(found.targets, kept)

    def force(layer: LoopableLayer, x: Any, use: int) -> Any:
        if use == 0:
            every = layer.joined_alike(x)
            bind(layer, every)
            if state is None and layer.name not in kept and init in ("auto", "normalised"):
                with torch.no_grad():
                    drawn[layer.name] = layer.loop_values(x, config.init_std or INPUTS_STD, generator)
            elif layer.name not in kept:  # from a state or at random, whatever the inputs are
                begin(layer, every)
        if layer.name in drawn:
            return layer.produce(x, [value.to(layer.parameters[0]) for value in drawn[layer.name]])
        return on_targets(layer, x, use)

    def visit(layer: TargetLayer, x: Any) -> tuple[list[Tensor], Any]:
        if not recurs(layer):
            bind(layer, x)
        if layer.name not in found.targets:
            begin(layer, x)
        if layer.name in held:
            values = [parameter.detach() for parameter in layer.parameters]
            return values, layer.produce(x, values)
        if state is None and init == "projected" and layer.anchor is None:
            return project(layer, x, found.targets[layer.name])
        return layer.solve(x, found.targets[layer.name])

    try:
        visited = run.walk(visit, force=force, bound=False)
    except Unreached as error:
        missing = [layer for layer in layers if layer.name in error.layers]
        if state is None or any(layer.module_name not in state.get("idle", ()) for layer in missing):
            raise
        visited = run.walk(visit, held=error.layers, force=force, bound=False)
        for layer in missing:
            run.late[layer.name] = bind
            found.targets[layer.name] = _unbound(layer, state)
            found.places[layer.name] = layer.binding.places
    readout = next(layer for layer in layers if layer.name == visited[-1])
    if state is None and init in ("auto", "normalised") and readout.anchor is None and not recurs(readout):
        with torch.no_grad():
            found.targets[readout.name].mul_(_READOUT)
    return found._replace(targets={layer.name: found.targets[layer.name] for layer in layers})


def _unbound(layer: TargetLayer, state: Mapping[str, Any]) -> Target:
    """The targets of a layer that was called no more when a state was written, which is bound where it is called."""
    like, values, rows = layer.parameters[0], state["targets"][layer.name], state["rows"].get(layer.name)
    places, unit = torch.Size(state["places"][layer.name]), state["units"][layer.name]
    # a family's own binding follows from the layer's input
    TargetLayer.adopt(layer, Binding(places=places, rows=rows, shape=values.shape, ridge=1.0, unit=unit))
    dtype = torch.promote_types(like.dtype, torch.float32)
    return Target(values.to(device=like.device, dtype=dtype, copy=True))


@torch.no_grad()
def keep_share(
    run: ReferencePass, layers: Sequence[TargetLayer], whole: Start, shards: Shards
) -> tuple[dict[str, Target], dict[str, Cut]]:
    """Keep this process's rows and targets, from which all processes together solve what the whole batch gave.

    Args:
        run: the reference pass on this process's samples.
        layers: bound on the whole batch, whose solution their weights hold.
        whole: the start.
        shards: the processes.

    Returns:
        This process's targets, and where they are in the whole, by layer name.

    Raises:
        TargetSpaceError: a layer's rows do not follow the samples, or something mixes these.
    """
    cuts: dict[str, Cut] = {}
    targets: dict[str, Target] = {}

    def cut(layer: TargetLayer, x: Any) -> None:
        binding, cuts[layer.name] = layer.shard(x, shards)
        layer.adopt(binding)
        own = cuts[layer.name].take(whole.targets[layer.name].detach())
        targets[layer.name] = Target(own.contiguous())

    on_targets = OnTargets(targets)

    def force(layer: LoopableLayer, x: Any, use: int) -> Any:
        if use == 0:
            cut(layer, layer.joined_alike(x))
        return on_targets(layer, x, use)

    def visit(layer: TargetLayer, x: Any) -> tuple[list[Tensor], Any]:
        if not recurs(layer):
            cut(layer, x)
        values, passed = layer.solve(x, targets[layer.name])
        difference = relative_difference(layer.achieved(x, values), layer.achieved(x, layer.parameters), shards)
        if difference > max(_SAME, 2 * torch.finfo(layer.parameters[0].dtype).eps):
            raise TargetSpaceError(
                f"layer '{layer.name}' is solved differently from {shards.ranks} shares of the reference batch than "
                f"from the whole: something before it mixes samples or draws random numbers, or its rows do not follow "
                f"their order. Use reference.shard=False, or add '{layer.module_name}' to exclude."
            )
        return values, passed

    run.walk(visit, force=force, bound=False)
    return {layer.name: targets[layer.name] for layer in layers}, cuts
