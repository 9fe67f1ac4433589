"""What a Lightning checkpoint holds of target space, and what a fit goes on from.

The ``state_dict`` of a checkpoint is the ordinary one of weights. Under the key ``target_space`` stand the targets, the
sampled rows, the reference batch, and the optimizers' states by name, all of them whole, however many processes wrote
them, in tensors and built-in types. ``optimizer_states`` is left empty, since what is in it is read by position as that
of weights: a class without the mixin resumes with the weights and a fresh optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from ts_lightning.errors import TargetSpaceError
from ts_lightning.space import TargetSpace

KEY = "target_space"


@dataclass
class Restored:
    """What the next fit starts from.

    Args:
        entry: what a checkpoint or the last fit holds of target space; ``None`` where there are weights alone.
        checkpoint: the checkpoint that Lightning is going to read the optimizers' states from, if it is.
    """

    entry: dict[str, Any] | None
    checkpoint: dict[str, Any] | None = None

    def restore_optimizers(self, space: TargetSpace, optimizers: Sequence[Optimizer]) -> None:
        """Lay the optimizers' states ready for Lightning, this process's share of them.

        Raises:
            TargetSpaceError: the states are of other parameters than the optimizers hold now.
        """
        if self.checkpoint is None or "optimizer_states" not in self.checkpoint:
            return
        entry = self.entry or {}
        states = entry.get("optimizer_states", [])
        if states and entry["optimized"] != optimized(space, optimizers):
            raise TargetSpaceError(
                f"The checkpoint's optimizers train {_listed(entry['optimized'])}; found "
                f"{_listed(optimized(space, optimizers))}. Give configure_optimizers() the same parameters in the same "
                f"order, or start from the weights alone."
            )
        self.checkpoint["optimizer_states"] = [
            _moments(space, optimizer, state, space.share)
            for optimizer, state in zip(optimizers, states, strict=bool(states))
        ]


def save(checkpoint: dict[str, Any], space: TargetSpace, optimizers: Sequence[Optimizer], **more: Any) -> None:
    """Add the target space to a checkpoint, and ``more`` beside it; called in all processes."""
    entry = {**space.state_dict(), **more}
    if "optimizer_states" in checkpoint:
        entry["optimized"] = optimized(space, optimizers)
        entry["optimizer_states"] = [
            _moments(space, optimizer, optimizer.state_dict(), space.whole) for optimizer in optimizers
        ]
        checkpoint["optimizer_states"] = []
    checkpoint[KEY] = entry


def optimized(space: TargetSpace, optimizers: Sequence[Optimizer]) -> list[list[str]]:
    """For each optimizer the names of what it trains, in its order."""
    names = {id(parameter): name for name, parameter in space.model.named_parameters()}
    names.update({id(target): f"targets of {name}" for name, target in space.targets.items()})
    return [[names.get(id(p), "?") for group in o.param_groups for p in group["params"]] for o in optimizers]


def _moments(
    space: TargetSpace, optimizer: Optimizer, state: dict[str, Any], change: Callable[[str, Tensor], Tensor]
) -> dict[str, Any]:
    """An optimizer's ``state_dict`` with ``change`` applied to what stands for a layer's targets, entry by entry."""
    names = {id(target): name for name, target in space.targets.items()}
    parameters: list[nn.Parameter] = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    changed = dict(state["state"])
    for number, parameter in zip(numbers, parameters, strict=True):
        name = names.get(id(parameter))
        if name is not None and number in changed:
            changed[number] = {
                key: change(name, value) if isinstance(value, Tensor) and value.dim() == parameter.dim() else value
                for key, value in changed[number].items()
            }
    return {**state, "state": changed}


def _listed(optimized: list[list[str]]) -> str:
    return "; ".join(", ".join(names) for names in optimized)
