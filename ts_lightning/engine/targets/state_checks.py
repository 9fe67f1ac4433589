"""What a state has to be for targets to go on from it: of the same layers, rows and shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ts_lightning.engine.running.batches import tensors_in
from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers.base import TargetLayer


def check_state(own: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Check that a state is of the target space whose present state is ``own``.

    Raises:
        TargetSpaceError: its targets stand for something else; says for what.
    """
    _check_whole(state)
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


def check_names(layers: Sequence[TargetLayer], state: Mapping[str, Any]) -> None:
    """Check that a state has targets of these layers."""
    _check_whole(state)
    wanted, given = {layer.name for layer in layers}, set(state["targets"])
    if wanted != given:
        parts = [f"without targets: {', '.join(sorted(wanted - given))}"] * bool(wanted - given)
        parts += [f"with targets but not chosen: {', '.join(sorted(given - wanted))}"] * bool(given - wanted)
        raise TargetSpaceError(
            f"The given targets are of other layers than are solved here: {'; '.join(parts)}. Choose the same layers, "
            f"or start from the weights alone."
        )


def check_rows(layer: TargetLayer, places: torch.Size, state: Mapping[str, Any]) -> None:
    """Check that a state has a layer's targets at these places."""
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


def restored(layer: TargetLayer, shape: torch.Size, state: Mapping[str, Any]) -> Tensor:
    """The layer's targets out of a state."""
    target: Tensor = state["targets"][layer.name]
    if target.shape != shape:
        raise TargetSpaceError(
            f"layer '{layer.name}' has given targets of shape {tuple(target.shape)}; expected {tuple(shape)} on this "
            f"reference batch. Use the same layer sizes, or start from the weights alone."
        )
    return target


def _check_whole(state: Mapping[str, Any]) -> None:
    """Check that a state is one of a target space at all, and not of the model, say."""
    if "targets" not in state:
        found = ", ".join(map(str, state)) or "nothing"
        raise TargetSpaceError(
            f"The state is of another target space: found no targets in it, but {found}. Give what state_dict() of a "
            f"TargetSpace returned."
        )
