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
from ts_lightning.engine.batches import tensors_in
from ts_lightning.engine.reference_pass import ReferencePass
from ts_lightning.engine.target import Target
from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers.base import TargetLayer
from ts_lightning.layers.binding import StepUnit
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
        _check_names(layers, state)
    share = min(layer.step_share for layer in layers)
    if config.step_scale == "auto":
        step = StepUnit(share * _STEP_SCALE / len(layers) ** 0.25, auto=True, share=share)
    else:
        step = StepUnit(config.step_scale)

    @torch.no_grad()
    def begin(layer: TargetLayer, x: Any) -> None:
        if x.numel() == 0:
            raise empty(layer, x)
        if state is not None:
            _check_rows(layer, layer.places(x), state)
        chosen = rows if state is None else state["rows"].get(layer.name, "all")
        anchored, layer.anchor = layer.anchor is not None, None
        keeps = init == "weights" or layer.name in given or layer.name in held or (init == "refresh" and anchored)
        before = state["units"][layer.name] if state is not None else layer.unit if init == "refresh" else None
        exact = keeps if before is None else math.frexp(before)[0] == 0.5  # which 0.5 times a power of two is
        binding = layer.bind(x, chosen, replace(step, exact=exact), generator)
        layer.adopt(binding)
        shape = binding.shape
        found.places[layer.name] = binding.places
        unit = layer.unit  # of what ``values`` is in units of the outputs
        if state is not None and layer.name not in held:
            values = _restored(layer, shape, state)
            unit = layer.unit / state["units"][layer.name]
            if layer.name in state.get("anchors", {}):
                layer.anchor_at([w0.to(values) for w0 in state["anchors"][layer.name]])
        elif keeps or not layer.varies(x):
            values, unit = layer.anchored_targets(x), 1.0
        elif init == "refresh":
            values, rank, columns = layer.reproduce(x, layer.parameters, 0.0)
            if rank < columns:
                found.deficient.append((layer.name, rank, columns))
        elif init in ("auto", "normalised"):
            values = layer.start(x, config.init_std or layer.normalised_std, generator)
        else:
            std = config.init_std or layer.projected_std
            values = nn.init.trunc_normal_(torch.empty(shape), std=std, a=-2 * std, b=2 * std, generator=generator)
        like = layer.parameters[0]
        dtype = torch.promote_types(like.dtype, torch.float32)
        target = (values / unit).to(device=like.device, dtype=dtype, copy=True)
        found.targets[layer.name] = Target(target)

    def visit(layer: TargetLayer, x: Any) -> tuple[list[Tensor], Any]:
        begin(layer, x)
        if layer.name in held:
            values = [parameter.detach() for parameter in layer.parameters]
            return values, layer.produce(x, values)
        if state is None and init == "projected" and layer.anchor is None:
            return project(layer, x, found.targets[layer.name])
        return layer.solve(x, found.targets[layer.name])

    visited = run.walk(visit, bound=False)
    readout = next(layer for layer in layers if layer.name == visited[-1])
    if state is None and init in ("auto", "normalised") and readout.anchor is None:
        with torch.no_grad():
            found.targets[readout.name].mul_(_READOUT)
    return found._replace(targets={layer.name: found.targets[layer.name] for layer in layers})


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

    def visit(layer: TargetLayer, x: Any) -> tuple[list[Tensor], Any]:
        binding, cuts[layer.name] = layer.shard(x, shards)
        layer.adopt(binding)
        cut = cuts[layer.name]
        targets[layer.name] = target = Target(cut.take(whole.targets[layer.name].detach()).contiguous())
        values, passed = layer.solve(x, target)
        difference = relative_difference(layer.achieved(x, values), layer.achieved(x, layer.parameters), shards)
        if difference > max(_SAME, 2 * torch.finfo(layer.parameters[0].dtype).eps):
            raise TargetSpaceError(
                f"layer '{layer.name}' is solved differently from {shards.ranks} shares of the reference batch than "
                f"from the whole: something before it mixes samples, or its rows do not follow their order. Use "
                f"reference.shard=False, or add '{layer.module_name}' to exclude."
            )
        return values, passed

    run.walk(visit, bound=False)
    return {layer.name: targets[layer.name] for layer in layers}, cuts


def check_state(own: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Check that a state is of the target space whose present state is ``own``.

    Raises:
        TargetSpaceError: its targets stand for something else; says for what.
    """
    if set(own["targets"]) != set(state["targets"]):
        raise TargetSpaceError(
            f"The state is of another target space: it has targets of {', '.join(sorted(state['targets']))}; found "
            f"layers {', '.join(sorted(own['targets']))}. Give the state of this one, or TargetSpace(..., state=...)."
        )
    for name, target in own["targets"].items():
        given = state["targets"][name]
        if given.shape != target.shape:
            raise TargetSpaceError(
                f"The state is of another target space: layer '{name}' has targets {tuple(given.shape)} in it; "
                f"expected {tuple(target.shape)}. Give the state of this one, or TargetSpace(..., state=...)."
            )
        rows = own["rows"].get(name), state["rows"].get(name)
        if (rows[0] is None) != (rows[1] is None) or (rows[0] is not None and not torch.equal(*rows)):
            raise TargetSpaceError(
                f"The state is of another target space: layer '{name}' has targets at other rows in it. Give the "
                f"state of this one, or TargetSpace(..., state=...)."
            )
        if own["units"][name] != state["units"][name]:
            raise TargetSpaceError(
                f"The state is of another target space: layer '{name}' has targets in units of {state['units'][name]} "
                f"in it; expected {own['units'][name]}. Give the state of this one, or TargetSpace(..., state=...)."
            )
    samples, given_samples = (list(tensors_in(it["reference"])) for it in (own, state))
    if len(samples) != len(given_samples) or any(
        a.shape != b.shape or not torch.equal(a.cpu(), b.cpu()) for a, b in zip(samples, given_samples, strict=True)
    ):
        raise TargetSpaceError(
            "The state is of another target space: its targets are those of other samples than this reference batch. "
            "Give the state of this one, or TargetSpace(model, reference, state=...) with its reference batch."
        )


def _check_names(layers: Sequence[TargetLayer], state: Mapping[str, Any]) -> None:
    wanted, given = {layer.name for layer in layers}, set(state["targets"])
    if wanted != given:
        parts = [f"without targets: {', '.join(sorted(wanted - given))}"] * bool(wanted - given)
        parts += [f"with targets but not chosen: {', '.join(sorted(given - wanted))}"] * bool(given - wanted)
        raise TargetSpaceError(
            f"The given targets are of other layers than are solved here: {'; '.join(parts)}. Choose the same layers, "
            f"or start from the weights alone."
        )


def _check_rows(layer: TargetLayer, places: torch.Size, state: Mapping[str, Any]) -> None:
    given = tuple(state["places"][layer.name])
    if given != places:
        raise TargetSpaceError(
            f"layer '{layer.name}' has given targets of a reference batch on which it is applied at {given} places; "
            f"found {tuple(places)}. Use the same reference batch, or start from the weights alone."
        )
    if layer.ocu and layer.name in state["rows"]:
        raise TargetSpaceError(
            f"layer '{layer.name}' has given targets at a sample of its rows; method='ocu' passes targets on, and "
            f"needs them at all rows. Use method='scu', or start from the weights alone."
        )


def _restored(layer: TargetLayer, shape: torch.Size, state: Mapping[str, Any]) -> Tensor:
    """The layer's targets out of a state."""
    target: Tensor = state["targets"][layer.name]
    if target.shape != shape:
        raise TargetSpaceError(
            f"layer '{layer.name}' has given targets of shape {tuple(target.shape)}; expected {tuple(shape)} on this "
            f"reference batch. Use the same layer sizes, or start from the weights alone."
        )
    return target
