"""What a Lightning checkpoint holds of target space, and what a fit goes on from.

The ``state_dict`` of a checkpoint is the ordinary one of weights. Under the key ``target_space`` stand the targets, the
sampled rows, the reference batch, and the optimizers' states by name, all of them whole, however many processes wrote
them, in tensors and built-in types. ``optimizer_states`` is what a class without the mixin resumes from, with the
weights: the options of the parameter groups, as learning rates that a scheduler has changed, and no moments.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from ts_lightning.engine.space import TargetSpace
from ts_lightning.errors import TargetSpaceError

KEY = "target_space"
#: under which a module's class and settings stand, those of weight space (None) as well
SETTINGS = "target_space_settings"


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
        if self.entry is None:
            self.checkpoint["optimizer_states"] = [
                _without_moments(state, group_sizes(optimizer))
                for optimizer, state in zip(optimizers, self.checkpoint["optimizer_states"], strict=False)
            ]
            return
        entry = self.entry
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


def save(
    checkpoint: dict[str, Any],
    space: TargetSpace,
    optimizers: Sequence[Optimizer],
    sizes: Sequence[Sequence[int]],
    **more: Any,
) -> None:
    """Add the target space to a checkpoint, and ``more`` beside it; called in all processes.

    Args:
        checkpoint: the checkpoint that Lightning is going to write.
        space: the target space.
        optimizers: the optimizers that train it.
        sizes: the :func:`group_sizes` that they had with weights.
        more: what the target space does not know of itself.
    """
    entry = {**space.state_dict(), **more}
    if "optimizer_states" in checkpoint:
        entry["optimized"] = optimized(space, optimizers)
        entry["optimizer_states"] = [
            _moments(space, optimizer, optimizer.state_dict(), space.whole) for optimizer in optimizers
        ]
        checkpoint["optimizer_states"] = [
            _without_moments(optimizer.state_dict(), [*before, *group_sizes(optimizer)[len(before) :]])
            for optimizer, before in zip(optimizers, sizes, strict=False)  # none where another Trainer saves
        ]
    checkpoint[KEY] = entry


def optimized(space: TargetSpace, optimizers: Sequence[Optimizer]) -> list[list[str]]:
    """For each optimizer the names of what it trains, in its order."""
    names = {id(parameter): name for name, parameter in space.model.named_parameters()}
    names.update({id(target): f"targets of {name}" for name, target in space.targets.items()})
    return [[names.get(id(p), "?") for group in o.param_groups for p in group["params"]] for o in optimizers]


def group_sizes(optimizer: Optimizer) -> list[int]:
    """The number of parameters in each of an optimizer's groups."""
    return [len(group["params"]) for group in optimizer.param_groups]


def class_path(kind: type) -> str | None:
    """Where a class is imported from; ``None`` for one of a script."""
    module = kind.__module__
    if module == "__main__":
        spec = sys.modules[module].__spec__  # of what ``python -m`` runs
        module = "" if spec is None else spec.name
    return f"{module}.{kind.__qualname__}" if module and "<locals>" not in kind.__qualname__ else None


def _without_moments(state: dict[str, Any], sizes: Sequence[int]) -> dict[str, Any]:
    """An optimizer's ``state_dict`` with the options of its groups alone, which have ``sizes`` parameters.

    Raises:
        TargetSpaceError: it has another number of groups.
    """
    groups = state["param_groups"]
    if len(groups) != len(sizes):
        raise TargetSpaceError(
            f"The checkpoint's optimizer has {len(groups)} parameter groups; found {len(sizes)}. Give "
            f"configure_optimizers() the same groups, or start from the weights alone."
        )
    numbers = iter(range(sum(sizes)))
    return {
        "state": {},
        "param_groups": [
            {**group, "params": [next(numbers) for _ in range(size)]} for group, size in zip(groups, sizes, strict=True)
        ],
    }


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
