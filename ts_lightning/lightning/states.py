"""The forms in which optimizers write their states.

That of PyTorch's numbers what is trained: ``state`` by number, beside entries of all together under names, and the
options of ``param_groups``. Wrappers may have one of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn


def is_numbered(state: Mapping[str, Any]) -> bool:
    """Whether a state is in the form of PyTorch's optimizers."""
    return set(state) == {"state", "param_groups"} and all(isinstance(key, (int, str)) for key in state["state"])


def joint_entries(state: Mapping[Any, Any]) -> dict[str, Any]:
    """The numbers that an optimizer keeps of all parameters together, as a count of steps, by name."""
    found: dict[str, Any] = {}
    for name, value in state.items():
        if isinstance(name, str) and isinstance(value, Tensor) and value.numel() == 1:
            found[name] = value.detach().clone()
        elif isinstance(name, str) and isinstance(value, (int, float, str)):
            found[name] = value
    return found


def numbered(groups: Iterable[Mapping[str, Any]], sizes: Iterable[int]) -> list[dict[str, Any]]:
    """The options of groups, for so many parameters in each of them."""
    numbered: list[dict[str, Any]] = []
    start = 0
    for group, size in zip(groups, sizes, strict=True):
        numbered.append({**group, "params": list(range(start, start + size))})
        start += size
    return numbered


def matched(
    state: Mapping[str, Any],
    given: Iterable[nn.Parameter],
    trained: Iterable[nn.Parameter],
    present: Mapping[Any, Mapping[str, Any]],
) -> dict[int, Any]:
    """The moments of a state of the ``given`` parameters, by the numbers of those that are ``trained``, too.

    Those of other shapes than the ``present`` ones are of a weight where its targets stand now.
    """
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    by_parameter = dict(zip(given, numbers, strict=False))
    found: dict[int, Any] = {}
    for number, parameter in enumerate(trained):
        moments = state["state"].get(by_parameter.get(parameter))
        if moments is not None and _fit(moments, parameter, present.get(parameter, {})):
            found[number] = moments
    return found


def _fit(moments: Mapping[str, Any], parameter: nn.Parameter, present: Mapping[str, Any]) -> bool:
    """Whether moments have the shapes of the ``present`` ones; of those that are not made yet, the parameter's.

    Some have another shape than their parameter, as the rows and columns of Adafactor, and matrices that precondition.
    """
    for key, value in moments.items():
        if isinstance(value, Tensor):
            made = present.get(key)
            like = made if isinstance(made, Tensor) else parameter
            if value.shape != like.shape and (made is like or value.dim() == parameter.dim()):
                return False
    return True
