"""How a target space's targets stand in one optimizer in the place of weights, and how its states are written and read.

A state is written in the numbering of weight space, so that the class without the mixin loads it: the options of the
groups, and what the optimizer's constructor made. Under the key ``target_space`` stand the moments by the names of what
is trained, whole however many processes wrote them. Whoever loads such a state into the optimizer (Lightning when it
resumes, a callback that goes back to an earlier checkpoint) gets the moments; a state of weight space gives its options
and the moments of what is trained in both spaces.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from ts_lightning.amount import amount
from ts_lightning.engine.space import TargetSpace
from ts_lightning.engine.steps.made import Made, forget_steps, made_states
from ts_lightning.engine.steps.optimizers import OWN_METHODS, drop_joint_moments, inner_optimizers, restore
from ts_lightning.engine.targets.target import Target
from ts_lightning.errors import TargetSpaceError
from ts_lightning.lightning.states import is_numbered, joint_entries, matched, numbered
from ts_lightning.optim import TargetAdam, shares_one
from ts_lightning.optim.kind import of_another_kind

#: of target space's own entries in a checkpoint and in an optimizer's state
KEY = "target_space"
_OWN = ("__getstate__", "load_state_dict", *OWN_METHODS)


class Substitution:
    """Targets in the place of weights in one optimizer, until :meth:`undo`.

    Args:
        space: the targets.
        optimizer: the optimizer; moments that it holds of the weights are dropped, since they say nothing of targets.
        constructed: the states that optimizers' constructors are known to have made.
    """

    def __init__(self, space: TargetSpace, optimizer: Optimizer, constructed: Sequence[Made] = ()) -> None:
        self.optimizer = optimizer
        self._space = space
        self._weights: list[list[nn.Parameter]] = [list(group["params"]) for group in optimizer.param_groups]
        solved = {id(whole): whole for layer in space.layers for whole in layer.wholes}
        drop_joint_moments(optimizer, solved.values())
        self._made: list[Made] = []
        for one in (optimizer, *inner_optimizers(optimizer)):
            forget_steps(one, solved, constructed)
            self._made += made_states(one, solved)
        self._joint = joint_entries(optimizer.state)
        separate = [group for inner in inner_optimizers(optimizer) for group in inner.param_groups]
        self._inner = [
            (group, list(group["params"]))
            for group in separate
            if all(group is not own for own in optimizer.param_groups)
        ]
        if space.partition.ranks > 1 and not is_numbered(optimizer.state_dict()):
            raise TargetSpaceError(
                f"{type(optimizer).__name__} writes its state in a form of its own, in which what each of "
                f"{space.partition.ranks} processes has of its targets cannot be joined. Use reference.shard=False, or "
                f"the optimizer that it wraps."
            )
        space.substitute(optimizer)
        optimizer.__dict__["__getstate__"] = self._of_weights  # which copies and pickles ask for
        # and no hook: classes that override it look at the state ahead of hooks
        self._load_own = optimizer.load_state_dict
        optimizer.__dict__["load_state_dict"] = self._load

    def undo(self) -> None:
        """Put the weights back, with fresh moments."""
        drop_joint_moments(self.optimizer, self._space.targets.values())
        for name in ("__getstate__", "load_state_dict"):
            self.optimizer.__dict__.pop(name, None)
        self._put_weights_back()
        restore(self.optimizer)

    def _put_weights_back(self) -> None:
        for group, parameters in zip(self.optimizer.param_groups, self._groups(), strict=True):
            group["params"][:] = parameters
        for group, weights in self._inner:
            group["params"][:] = weights
        for one in (self.optimizer, *inner_optimizers(self.optimizer)):
            for target in self._space.targets.values():
                one.state.pop(target, None)
        for made in self._made:
            made.optimizer.state[made.weight] = made.of(made.weight)

    def _state_of_weights(self) -> dict[str, Any]:
        """The state of an optimizer that writes it in a form of its own, as it would write it behind :meth:`undo`."""
        everyone = (self.optimizer, *inner_optimizers(self.optimizer))
        groups = [(group["params"], list(group["params"])) for one in everyone for group in one.param_groups]
        states = [(one.state, dict(one.state)) for one in everyone]
        self._put_weights_back()
        try:
            return copy.deepcopy(self.optimizer.state_dict())
        finally:
            for place, parameters in groups:
                place[:] = parameters
            for held, state in states:
                held.clear()
                held.update(state)

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
        state.update({made.weight: made.of(made.weight) for made in self._made if made.optimizer is optimizer})
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
        own, names = self.optimizer.state_dict(), self.names()
        if not is_numbered(own):
            return {**self._state_of_weights(), KEY: {"optimized": names, "own": own}}
        joint = {key: value for key, value in own["state"].items() if isinstance(key, str)}
        each = {number: value for number, value in own["state"].items() if number not in joint}
        moments = {names[n]: state for n, state in self._changed(each, self._space.partition.whole).items()}
        sizes = [*map(len, self._weights), *(len(g["params"]) for g in own["param_groups"][len(self._weights) :])]
        places = {id(w): place for place, w in enumerate(weight for group in self._weights for weight in group)}
        made = {places[id(m.weight)]: m.of(m.weight) for m in self._made if id(m.weight) in places}
        entry = {"optimized": names, "moments": moments, **({"joint": joint} if joint else {})}
        return {"state": {**made, **self._joint}, "param_groups": numbered(own["param_groups"], sizes), KEY: entry}

    def load_moments(self, state: Mapping[str, Any]) -> None:
        """Take the moments of a written state, and leave the groups' options as they are; none of another optimizer's.

        Raises:
            TargetSpaceError: the state is of other parameters than the optimizer trains.
        """
        if KEY not in state or ("own" not in state[KEY] and of_another_kind(self.optimizer, state["param_groups"])):
            return
        options = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        self._load({**state, "param_groups": self.optimizer.state_dict().get("param_groups")})
        for group, kept in zip(self.optimizer.param_groups, options, strict=True):
            group.update(kept)

    def _load(self, state_dict: dict[str, Any]) -> None:
        """Stands for the optimizer's own method: takes a state of targets, and of one of weights what fits."""
        state = self._own_form(state_dict)
        if state is not None:
            self._load_own(state)

    def _own_form(self, state: Mapping[str, Any]) -> dict[str, Any] | None:
        """A state in the optimizer's own form, with this process's share of the moments; None for nothing that fits."""
        written = state.get(KEY, {})
        own_form = not is_numbered(self.optimizer.state_dict())
        if own_form and KEY not in state:
            return dict(state)  # as the optimizer itself gave it
        if own_form or "own" in written:
            self._check_names(written)
            return dict(written["own"]) if own_form and "own" in written else None
        own = [len(group["params"]) for group in self.optimizer.param_groups]
        given = [len(group["params"]) for group in state["param_groups"]]
        joint = {**self._joint, **joint_entries(state["state"])}
        if KEY in state:
            moments = {**self._read(written), **written.get("joint", {})}
        elif given == own:
            moments = {**matched(state, self._trained(), self._trained(), self.optimizer.state), **joint}
        elif given[: len(self._weights)] == list(map(len, self._weights)):
            weights = [weight for group in self._weights for weight in group]
            moments = {**matched(state, weights, self._trained(), self.optimizer.state), **joint}
        else:
            return dict(state)  # which torch refuses
        return {**state, "state": moments, "param_groups": numbered(state["param_groups"], own)}

    def _check_names(self, entry: Mapping[str, Any]) -> None:
        names = self.names()
        if entry.get("optimized", names) != names:
            raise TargetSpaceError(
                f"The checkpoint's optimizers train {', '.join(entry['optimized'])}; found {', '.join(names)}. Give "
                f"configure_optimizers() the same parameters in the same order, or start from the weights alone."
            )

    def _read(self, entry: Mapping[str, Any]) -> dict[int, Any]:
        """The moments of an entry by the optimizer's own numbers."""
        self._check_names(entry)
        names = self.names()
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
