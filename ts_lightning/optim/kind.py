"""Whether a checkpoint's optimizer is of the kind of another one, by the settings of their parameter groups."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import Optimizer


def of_another_kind(optimizer: Optimizer, groups: Sequence[Mapping[str, Any]]) -> bool:
    """Whether an optimizer lacks a setting with the parameter groups of a written state.

    Settings that its class completes, as those of a later version of torch, are not lacking.

    Args:
        optimizer: that is to take the state.
        groups: the state's ``param_groups``.
    """
    # a wrapper may have none; torch adds one of its own to each that has been loaded into
    names = set(getattr(optimizer, "defaults", ())) - {"differentiable"}
    if all(names <= set(group) for group in groups):
        return False
    probe = object.__new__(type(optimizer))  # which completes them as load_state_dict does
    given = [{**group, "params": []} for group in groups]
    probe.__setstate__({"defaults": optimizer.defaults, "state": defaultdict(dict), "param_groups": given})
    return not all(names <= set(group) for group in probe.param_groups)
