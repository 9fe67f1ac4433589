"""States that an optimizer's constructor makes of weights, made again of the targets that take their place.

Of these an optimizer needs some before its first step: sums that begin with a number, copies of what it trains. States
that steps have left say nothing of targets.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adagrad, Optimizer

from ts_lightning.errors import TargetSpaceError


@dataclass(frozen=True)
class Made:
    """The state that the constructor of an optimizer has made for a weight.

    Attributes:
        optimizer: whose state it is.
        weight: which it trains.
        numbers: by the state's keys, the number throughout a tensor, with its precision.
        copies: the keys of copies of the weight.
        others: by key, what is no tensor of the weight's numbers.
    """

    optimizer: Optimizer
    weight: nn.Parameter
    numbers: Mapping[str, tuple[float, torch.dtype]]
    copies: Collection[str]
    others: Mapping[str, Any]

    def of(self, parameter: nn.Parameter) -> dict[str, Any]:
        """The state that the constructor would make for another parameter."""
        given = parameter.detach()
        others = {key: value.clone() if isinstance(value, Tensor) else value for key, value in self.others.items()}
        filled = {key: torch.full_like(given, one, dtype=dtype) for key, (one, dtype) in self.numbers.items()}
        return {**others, **filled, **{key: given.clone() for key in self.copies}}


def made_states(optimizer: Optimizer, weights: Collection[int]) -> list[Made]:
    """The states of an optimizer that its constructor has made, and not a step, for weights given by their ids.

    Raises:
        TargetSpaceError: it has made masks of weights.
    """
    states = {p: state for p, state in optimizer.state.items() if isinstance(p, Tensor) and isinstance(state, Mapping)}
    untouched = all(_may_be_made(state, p) for p, state in states.items())
    copies = {key for p, state in states.items() for key, value in state.items() if _is_copy(value, p)}
    found: list[Made] = []
    for group in optimizer.param_groups:
        for weight in group["params"]:
            state = states.get(weight)
            if not state or id(weight) not in weights:
                continue
            if untouched or (isinstance(optimizer, Adagrad) and _may_be_made(state, weight)):
                found.append(_made(optimizer, weight, state, copies))
            else:
                _refuse_masks(optimizer, weight, state)
    return found


def forget_steps(optimizer: Optimizer, weights: Collection[int], constructed: Iterable[Made]) -> None:
    """Leave an optimizer those states of weights, given by their ids, that its constructor makes.

    Args:
        optimizer: the optimizer.
        weights: ids.
        constructed: what constructors are known to have made, of this optimizer and of others.

    Raises:
        TargetSpaceError: it has made masks of weights.
    """
    for made in constructed:
        if made.optimizer is optimizer and id(made.weight) in weights:
            optimizer.state[made.weight] = made.of(made.weight)
    for group in optimizer.param_groups:
        for weight in group["params"]:
            state = optimizer.state.get(weight)
            if isinstance(optimizer, Adagrad) and state and id(weight) in weights:  # as no other of PyTorch's
                start = torch.full_like(state["sum"], group["initial_accumulator_value"])
                optimizer.state[weight] = {"step": torch.zeros_like(state["step"]), "sum": start}
    kept = {id(state.weight) for state in made_states(optimizer, weights)}
    for weight in [p for p in optimizer.state if id(p) in weights and id(p) not in kept]:
        del optimizer.state[weight]


def _made(optimizer: Optimizer, weight: nn.Parameter, state: Mapping[str, Any], copies: Collection[str]) -> Made:
    """A constructor's state; ``copies`` are the keys of copies, which those of a weight of zeros do not look like."""
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor) and value.dim() and len(value)}
    numbers = {k: (float(t.reshape(-1)[0]), t.dtype) for k, t in tensors.items() if k not in copies}
    others = {key: value for key, value in state.items() if key not in tensors}
    return Made(optimizer, weight, numbers, [key for key in tensors if key in copies], others)


def _may_be_made(state: Mapping[str, Any], parameter: Tensor) -> bool:
    """Whether a state may be a constructor's: tensors are of one number or copies, and no step is counted."""
    tensors = [value for value in state.values() if isinstance(value, Tensor) and value.numel()]
    return not state.get("step") and all(_of_one_number(t) or _is_copy(t, parameter) for t in tensors)


def _of_one_number(tensor: Tensor) -> bool:
    return bool((tensor == tensor.reshape(-1)[0]).all())


def _is_copy(value: Any, parameter: Tensor) -> bool:
    """Whether a value holds the numbers of a parameter, and not one number throughout, as a sum may begin with."""
    if not isinstance(value, Tensor) or value.shape != parameter.shape or value.dtype != parameter.dtype:
        return False
    return torch.equal(value, parameter) and value.numel() > 0 and not _of_one_number(value)


def _refuse_masks(optimizer: Optimizer, weight: nn.Parameter, state: Mapping[str, Any]) -> None:
    for key, value in state.items():
        mask = isinstance(value, Tensor) and value.dtype == torch.bool and value.shape == weight.shape
        if mask and not _of_one_number(value):
            raise TargetSpaceError(
                f"{type(optimizer).__name__} chooses among the numbers of each weight, by a mask '{key}' of its shape, "
                f"and targets have others. Set the optimizer to train all numbers, or take another; or train in weight "
                f"space: target_space=None."
            )
