"""What of a module its optimizers train: that alone is solved, and what weight space would do otherwise is said."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from dataclasses import replace

from lightning.pytorch.utilities import rank_zero_warn
from torch import nn
from torch.optim import Optimizer

from ts_lightning.config import TargetSpaceConfig
from ts_lightning.engine.names import is_matrix, listed
from ts_lightning.engine.space import TargetSpace
from ts_lightning.engine.steps.optimizers import check_own, trained_by
from ts_lightning.engine.survey.rest import untrained_layers
from ts_lightning.errors import NothingToSolve
from ts_lightning.optim import TargetAdam


def optimized_only(
    module: nn.Module, config: TargetSpaceConfig | None, optimizers: Sequence[Optimizer]
) -> TargetSpaceConfig | None:
    """The settings with the layers excluded whose weights no optimizer trains; None where none trains any.

    Raises:
        TargetSpaceError: an optimizer keeps weights where targets cannot take their place.
    """
    if config is None:
        return None
    trained = trained_by(*optimizers)
    if trained.isdisjoint(map(id, module.parameters())):
        rank_zero_warn(
            "Target space: no optimizer of configure_optimizers() trains a parameter of the module. Nothing is "
            "solved; what the module trains by itself, it trains in weight space."
        )
        return None
    for optimizer in optimizers:  # before any weight moves
        check_own(optimizer, (p for p in module.parameters() if p.requires_grad and is_matrix(p)))
    idle = untrained_layers(module, trained)
    if idle:
        warnings.warn(f"Left out of target space because no optimizer trains them: {listed(idle)}.", stacklevel=4)
    return replace(config, exclude=[*config.exclude, *idle])


def say_nothing_is_solved(error: NothingToSolve) -> None:
    """Where the optimizers train other parameters than those of layers, or the layers are gone."""
    rank_zero_warn(f"{error} What the module trains, it trains in weight space.")


def say_what_is_trained(space: TargetSpace, optimizers: Sequence[Optimizer]) -> None:
    """Name what the optimizers train otherwise than they say."""
    solved = {id(p) for layer in space.layers for p in layer.wholes}
    _say_what_is_solved_beside(space, solved, optimizers)
    for optimizer in optimizers:
        if isinstance(optimizer, TargetAdam):
            if solved.isdisjoint(trained_by(optimizer)):
                _say_of_targets(optimizer)
            _say_of_the_rest(optimizer, solved)


def _say_what_is_solved_beside(space: TargetSpace, solved: set[int], optimizers: Sequence[Optimizer]) -> None:
    """Name the parameters of solved layers, as their biases, that no optimizer has: weight space would leave them."""
    loose = solved - trained_by(*optimizers)
    names = [name for name, p in space.model.named_parameters() if id(p) in loose and p.requires_grad]
    if names:
        rank_zero_warn(
            f"Trained by no optimizer, and solved with their layers all the same: {', '.join(names)}. A layer in "
            f"exclude keeps its own."
        )


def _say_of_targets(optimizer: TargetAdam) -> None:
    """Name options that count for or beside targets alone, in an optimizer without any."""
    multiples = [group["rest_lr_mult"] for group in optimizer.param_groups]
    if any(multiple != 1 for multiple in multiples):
        rank_zero_warn(
            f"An optimizer has rest_lr_mult={max(multiples):g} and trains no targets, beside which alone it counts. "
            f"Give that optimizer the learning rate itself."
        )
    usual = inspect.signature(TargetAdam).parameters
    for name in ("adaptive_lr", "momentum"):
        given = [group[name] for group in optimizer.param_groups if group[name] != usual[name].default]
        if given:
            rank_zero_warn(
                f"An optimizer has {name}={given[0]} and trains no targets, for which alone it counts. Leave it out."
            )


def _say_of_the_rest(optimizer: TargetAdam, solved: set[int]) -> None:
    """Name options of what is not solved, in groups of solved weights alone."""
    for name, usual, instead in (
        ("weight_decay", 0, "Solved weights are decayed by the ridge: raise that, or leave it out."),
        ("rest_lr_mult", 1, "Leave it out, or give that optimizer the other parameters."),
    ):
        groups = [group for group in optimizer.param_groups if group[name] != usual]
        own = {id(p) for group in groups for p in group["params"]}
        if own and own <= solved:
            rank_zero_warn(
                f"An optimizer has {name}={groups[0][name]:g} for solved weights alone, and it counts for what is not "
                f"solved. {instead}"
            )
