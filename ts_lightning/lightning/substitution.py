"""How a target space's targets stand in one optimizer in the place of weights, and how its states are written and read.

A state is written in the numbering of weight space, so that the class without the mixin loads it: the options of the
groups, and what the optimizer's constructor made. Under the key ``target_space`` stand the moments by the names of what
is trained, whole however many processes wrote them. Whoever loads such a state into the optimizer (Lightning when it
resumes, a callback that goes back to an earlier checkpoint) gets the moments; a state of weight space gives its options
and the moments of what is trained in both spaces.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Adagrad, Optimizer

from ts_lightning.amount import amount
from ts_lightning.engine.space import TargetSpace
from ts_lightning.engine.steps.optimizers import drop_joint_moments, inner_optimizers, restore
from ts_lightning.engine.targets.target import Target
from ts_lightning.errors import TargetSpaceError
from ts_lightning.optim import TargetAdam, shares_one
from ts_lightning.optim.kind import of_another_kind

#: of target space's own entries in a checkpoint and in an optimizer's state
KEY = "target_space"
#: methods that stand on an optimizer with targets
_OWN = ("__getstate__", "zero_grad", "add_param_group")


class Substitution:
    """Targets in the place of weights in one optimizer, until :meth:`undo`.

    Args:
        space: the targets.
        optimizer: the optimizer; moments that it holds of the weights are dropped, since they say nothing of targets.
    """

    def __init__(self, space: TargetSpace, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self._space = space
        self._weights: list[list[nn.Parameter]] = [list(group["params"]) for group in optimizer.param_groups]
        solved: dict[int, list[nn.Parameter]] = {}
        for layer in space.layers:
            for whole in layer.wholes:
                solved.setdefault(id(whole), []).append(space.targets[layer.name])
        drop_joint_moments(optimizer, (whole for layer in space.layers for whole in layer.wholes))
        self._made: dict[nn.Parameter, tuple[Optimizer, dict[str, Any]]] = {}
        made: list[tuple[Optimizer, nn.Parameter, dict[str, Any]]] = []
        for one, group, weight, state in _constructed(optimizer, solved):
            self._made[weight] = one, _made(one, group, state, weight)
            made += [(one, target, _made(one, group, state, target)) for target in solved[id(weight)]]
        separate = [group for inner in inner_optimizers(optimizer) for group in inner.param_groups]
        self._inner = [
            (group, list(group["params"]))
            for group in separate
            if all(group is not own for own in optimizer.param_groups)
        ]
        space.substitute(optimizer)
        trained = set(self._trained())
        for one, target, state in made:
            if target in trained:
                one.state[target] = state
        # a wrapper that does not initialise its base class loads by way of what it wraps
        known = [
            o for o in (optimizer, *inner_optimizers(optimizer)) if hasattr(o, "_optimizer_load_state_dict_pre_hooks")
        ]
        optimizer.__dict__["__getstate__"] = self._of_weights  # which copies and pickles ask for
        self._handles = [o.register_load_state_dict_pre_hook(self._before_load) for o in known[:1]]

    def undo(self) -> None:
        """Put the weights back, with fresh moments."""
        targets = set(self._space.targets.values())
        drop_joint_moments(self.optimizer, targets)
        self.optimizer.__dict__.pop("__getstate__", None)
        for group, parameters in zip(self.optimizer.param_groups, self._groups(), strict=True):
            group["params"][:] = parameters
        for one in (self.optimizer, *inner_optimizers(self.optimizer)):
            for target in targets:
                one.state.pop(target, None)
        for weight, (one, state) in self._made.items():
            one.state[weight] = _copied(state)
        for group, weights in self._inner:
            group["params"][:] = weights
        for handle in self._handles:
            handle.remove()
        restore(self.optimizer)

    def _groups(self) -> list[list[nn.Parameter]]:
        """What is in each of the optimizer's groups, with the weights in the place of their targets."""
        targets, found = set(self._space.targets.values()), []
        for i, group in enumerate(self.optimizer.param_groups):
            weights = self._weights[i] if i < len(self._weights) else []
            found.append([*weights, *(p for p in group["params"] if p not in {*weights, *targets})])
        return found

    def _of_weights(self) -> dict[str, Any]:
        """What a copy of the optimizer is made of: the weights, as behind :meth:`undo`.

        With the module goes a copy of an optimizer that it holds, and not one of its targets.
        """
        optimizer = self.optimizer
        targets = set(self._space.targets.values())
        state = {p: moments for p, moments in optimizer.state.items() if p not in targets}
        state.update({weight: _copied(made) for weight, (one, made) in self._made.items() if one is optimizer})
        pairs = zip(optimizer.param_groups, self._groups(), strict=True)
        groups = [{**group, "params": parameters} for group, parameters in pairs]
        given = {name: value for name, value in type(optimizer).__getstate__(optimizer).items() if name not in _OWN}
        return {**given, "state": defaultdict(dict, state), "param_groups": groups}

    def names(self) -> list[str]:
        """The names of what the optimizer trains, in its order; of what is not the model's "?", "? 2", and so on."""
        names = {id(parameter): name for name, parameter in self._space.model.named_parameters()}
        names.update({id(target): f"targets of {name}" for name, target in self._space.targets.items()})
        numbers = count(1)
        return [names.get(id(p)) or _unknown(next(numbers)) for p in self._trained()]

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state as a checkpoint holds it; called in all processes."""
        own = self.optimizer.state_dict()
        whole = self._changed(own["state"], self._space.partition.whole)
        names = self.names()
        moments = {names[number]: state for number, state in whole.items()}
        sizes = [*map(len, self._weights), *(len(g["params"]) for g in own["param_groups"][len(self._weights) :])]
        weights = [weight for group in self._weights for weight in group]
        made = {place: _copied(self._made[w][1]) for place, w in enumerate(weights) if w in self._made}
        groups = _numbered(own["param_groups"], sizes)
        return {"state": made, "param_groups": groups, KEY: {"optimized": names, "moments": moments}}

    def load_moments(self, state: Mapping[str, Any]) -> None:
        """Take the moments of a written state, and leave the groups' options as they are; none of another optimizer's.

        Raises:
            TargetSpaceError: the state is of other parameters than the optimizer trains.
        """
        if KEY in state and not of_another_kind(self.optimizer, state["param_groups"]):
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": {}, "param_groups": groups, KEY: state[KEY]})

    def _before_load(self, optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        """Turn a state into one in the optimizer's own numbering, with this process's share of the moments."""
        own = [len(group["params"]) for group in optimizer.param_groups]
        given = [len(group["params"]) for group in state["param_groups"]]
        if KEY in state:
            moments = self._read(state[KEY])
        elif given == own:
            moments = _matched(state, self._trained(), self._trained(), optimizer.state)
        elif given[: len(self._weights)] == list(map(len, self._weights)):
            weights = [weight for group in self._weights for weight in group]
            moments = _matched(state, weights, self._trained(), optimizer.state)
        else:
            return state  # which torch refuses
        return {**state, "state": moments, "param_groups": _numbered(state["param_groups"], own)}

    def _read(self, entry: Mapping[str, Any]) -> dict[int, Any]:
        """The moments of an entry by the optimizer's own numbers."""
        names = self.names()
        if entry["optimized"] != names:
            raise TargetSpaceError(
                f"The checkpoint's optimizers train {', '.join(entry['optimized'])}; found {', '.join(names)}. Give "
                f"configure_optimizers() the same parameters in the same order, or start from the weights alone."
            )
        moments = {n: entry["moments"][name] for n, name in enumerate(names) if name in entry["moments"]}
        if not any(isinstance(one, TargetAdam) for one in (self.optimizer, *inner_optimizers(self.optimizer))):
            moments = _of_each(moments, self._trained(), type(self.optimizer).__name__)
        return self._changed(moments, self._space.partition.share)

    def _trained(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _changed(self, moments: Mapping[int, Any], change: Callable[[str, Tensor], Tensor]) -> dict[int, Any]:
        """Moments by the optimizer's own numbers, with ``change`` applied to those of targets."""
        names = {id(target): name for name, target in self._space.targets.items()}
        changed = dict(moments)
        for number, parameter in enumerate(self._trained()):
            name = names.get(id(parameter))
            if name is not None and number in changed:
                changed[number] = {
                    key: change(name, value) if isinstance(value, Tensor) and value.dim() == parameter.dim() else value
                    for key, value in changed[number].items()
                }
        return changed


def _unknown(number: int) -> str:
    return "?" if number == 1 else f"? {number}"


def _of_each(moments: Mapping[int, Any], trained: Sequence[nn.Parameter], kind: str) -> dict[int, Any]:
    """The moments that an optimizer with moments of every number goes on from, without those of :class:`TargetAdam`."""
    kept = {n: state for n, state in moments.items() if not isinstance(trained[n], Target) or not shares_one(state)}
    if len(kept) < len(moments):
        whose = amount(len(moments) - len(kept), "layer's", "layers'")
        rank_zero_warn(
            f"{kind} was given the state of TargetAdam. The moments of {whose} targets start anew: it needs those of "
            f"every number, and TargetAdam has one for all."
        )
    return kept


def _constructed(
    optimizer: Optimizer, solved: Container[int]
) -> Iterator[tuple[Optimizer, Mapping[str, Any], nn.Parameter, Mapping[str, Any]]]:
    """Take the states of solved weights, by their ids, from an optimizer and its inner ones.

    Yields:
        Those that a constructor has made, and not a step, whose moments say nothing of targets: of which optimizer, of
        which of its groups, of which weight.
    """
    for one in (optimizer, *inner_optimizers(optimizer)):
        untouched = all(_may_be_made(state) for state in one.state.values() if isinstance(state, Mapping))
        for group in one.param_groups:
            for weight in group["params"]:
                state = one.state.pop(weight, None) if id(weight) in solved else None
                if state and isinstance(state, Mapping) and (untouched or isinstance(one, Adagrad)):
                    yield one, group, weight, state


def _made(
    optimizer: Optimizer, group: Mapping[str, Any], state: Mapping[str, Any], parameter: nn.Parameter
) -> dict[str, Any]:
    """The state that an optimizer's constructor makes for a parameter, out of a weight's."""
    if isinstance(optimizer, Adagrad):
        start = group["initial_accumulator_value"]
        return {"step": torch.zeros_like(state["step"]), "sum": torch.full_like(parameter.detach(), start)}
    return {
        key: torch.full_like(parameter.detach(), float(value.reshape(-1)[0]), dtype=value.dtype)
        if isinstance(value, Tensor) and value.dim() and value.numel()
        else value
        for key, value in _copied(state).items()
    }


def _may_be_made(state: Mapping[str, Any]) -> bool:
    """Whether a state may be a constructor's: each tensor has one number throughout, and no step is counted."""
    tensors = [value for value in state.values() if isinstance(value, Tensor) and value.numel()]
    return not state.get("step") and all(bool((tensor == tensor.reshape(-1)[0]).all()) for tensor in tensors)


def _copied(state: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value.clone() if isinstance(value, Tensor) else value for key, value in state.items()}


def _numbered(groups: Iterable[Mapping[str, Any]], sizes: Iterable[int]) -> list[dict[str, Any]]:
    """The options of groups, for so many parameters in each of them."""
    numbered: list[dict[str, Any]] = []
    start = 0
    for group, size in zip(groups, sizes, strict=True):
        numbered.append({**group, "params": list(range(start, start + size))})
        start += size
    return numbered


def _matched(
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
