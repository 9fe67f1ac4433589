"""Targets in the place of solved weights in an optimizer, whose options and list objects stay.

An optimizer may hold others and step these, as Lookahead and wrappers of several do; they are substituted in, too. What
else it keeps of the weights, in lists of its own or as copies, no target can replace, and it is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.algorithms.model_averaging.averagers import ModelAverager
from torch.optim import LBFGS, Optimizer

from ts_lightning.engine.names import listed
from ts_lightning.engine.steps.made import Made, made_states
from ts_lightning.engine.targets.partition import looks_at_all
from ts_lightning.errors import TargetSpaceError, instead
from ts_lightning.layers.base import TargetLayer

#: optimizers whose step for a number depends on others than its own gradients
_NOT_ELEMENTWISE = ("LBFGS", "Muon", "Adafactor")
#: takes matrices alone; not in every version of torch
_MUON: Any = getattr(torch.optim, "Muon", ())
#: what every optimizer keeps of its parameters
_USUAL = ("param_groups", "state", "defaults")
#: move what is trained without a step: schedule-free optimizers to the average and back, Lookahead to its copies
_MOVES = ("train", "eval", "backup_and_load_cache", "clear_and_load_backup")
#: methods that stand on an optimizer with targets
OWN_METHODS = ("zero_grad", "add_param_group", *_MOVES)
_DEEP = 4  # containers within containers that are looked into


def substitute(
    optimizer: Optimizer,
    layers: Sequence[TargetLayer],
    targets: Mapping[str, nn.Parameter],
    ranks: int,
    clear: Callable[[Sequence[nn.Parameter]], None],
    prepare: Callable[[], None],
) -> None:
    """Make the substitution, see :meth:`TargetSpace.substitute`.

    Args:
        optimizer: before its first step.
        layers: what is solved.
        targets: by layer name.
        ranks: the processes that share the targets.
        clear: clears the gradients on weights.
        prepare: makes the weights those of the targets, which may have been moved without a step.

    Raises:
        TargetSpaceError: it is no optimizer, has made a step, needs all targets in one process, averages what processes
            train, keeps weights beside its parameter groups, or takes matrices alone and targets are none.
    """
    if not hasattr(optimizer, "param_groups"):  # of Optimizer, or of a class like it
        raise TargetSpaceError(
            f"substitute: found {instead(optimizer)}; expected one optimizer, of the model's parameters."
        )
    weights = {id(parameter): parameter for layer in layers for parameter in layer.wholes}
    everyone = [optimizer, *inner_optimizers(optimizer)]
    made: list[Made] = []
    for each in everyone:
        kind = type(each).__name__
        own = made_states(each, weights.keys())
        made += own
        if weights.keys() & _with_moments(each) - {id(state.weight) for state in own}:
            raise TargetSpaceError(
                f"{kind} already holds state for weights that targets should replace. Make the substitution before the "
                f"first step."
            )
        if ranks > 1 and any(isinstance(value, ModelAverager) for _, value in _held(each)):
            raise TargetSpaceError(
                f"{kind} averages what the processes train, and each of {ranks} has targets of its own samples, which "
                f"nothing can average. Use the optimizer that it wraps: gradients are averaged in every step."
            )
        if kind in _NOT_ELEMENTWISE:
            if ranks > 1:
                raise looks_at_all(kind, ranks)
            for target in targets.values():
                if not target.is_contiguous():  # LBFGS views gradients as vectors
                    target.data = target.data.contiguous()
    check_own(optimizer, weights.values())
    replacement: dict[int, list[nn.Parameter]] = {}
    for layer in layers:
        replacement.setdefault(id(layer.wholes[0]), []).append(targets[layer.name])
    _check_matrices(everyone, layers, targets)
    solved: list[nn.Parameter] = []
    _say_other_rates(optimizer, layers)
    _say_other_optimizers(everyone, layers)
    for each in everyone:
        for group in each.param_groups:
            solved += [p for p in group["params"] if id(p) in weights]
            kept = [p for p in group["params"] if id(p) in replacement or id(p) not in weights]
            group["params"][:] = [new for p in kept for new in replacement.get(id(p), [p])]
    for state in made:
        state.optimizer.state.pop(state.weight, None)  # which a wrapper may share with what it wraps
        state.optimizer.state.update({new: state.of(new) for new in replacement.get(id(state.weight), [])})
    # so that it clears what it would have cleared
    optimizer.__dict__["zero_grad"] = partial(_zero_grad, optimizer.zero_grad, partial(clear, solved), prepare)
    for name in _MOVES:
        if callable(method := getattr(optimizer, name, None)):
            optimizer.__dict__[name] = partial(_move, method, prepare)
    names = {id(parameter): layer.module_name for layer in layers for parameter in layer.wholes}
    optimizer.__dict__["add_param_group"] = partial(_add_param_group, optimizer.add_param_group, names)


def _check_matrices(
    everyone: Sequence[Optimizer], layers: Sequence[TargetLayer], targets: Mapping[str, nn.Parameter]
) -> None:
    """Raise where torch's Muon, which takes matrices alone, would get targets of another number of dimensions."""
    trained = trained_by(*(one for one in everyone if isinstance(one, _MUON)))
    for layer in layers:
        dimensions = targets[layer.name].dim()
        if id(layer.wholes[0]) in trained and dimensions != 2:
            raise TargetSpaceError(
                f"Muon takes matrices, and the targets of layer '{layer.name}' have {dimensions} dimensions, as its "
                f"outputs have. Use a sample of their rows, by ReferenceConfig(rows=...); or TargetAdam."
            )


def _say_other_rates(optimizer: Optimizer, layers: Sequence[TargetLayer]) -> None:
    """Name the layers of whose parameters some have another learning rate than the one that gives its place away."""
    rates = {id(p): float(group["lr"]) for group in optimizer.param_groups if "lr" in group for p in group["params"]}
    given = {layer.name: [rates[id(p)] for p in layer.wholes if id(p) in rates] for layer in layers}
    odd = [name for name, found in given.items() if len(set(found)) > 1]
    if odd:
        warnings.warn(
            f"Parameters of {listed(odd)} have several learning rates. Targets set all parameters of a layer together, "
            f"at the rate of its first one; the other rates are without effect.",
            stacklevel=4,
        )


def _say_other_optimizers(everyone: Sequence[Optimizer], layers: Sequence[TargetLayer]) -> None:
    """Name the layers of which an optimizer has a part, as biases, and not the parameter that gives its place away."""
    trained = trained_by(*everyone)
    apart = [one for one in layers if id(one.wholes[0]) not in trained]
    odd = [layer.name for layer in apart if any(id(p) in trained for p in layer.wholes)]
    if odd:
        warnings.warn(
            f"{type(everyone[0]).__name__} has a part of {listed(odd)}, and not the first of the weights. Targets set "
            f"all parameters of a layer together, by the optimizer that has the first; this one is without effect on "
            f"the layer.",
            stacklevel=4,
        )


def trained_by(*optimizers: Optimizer) -> set[int]:
    """The ids of what optimizers train."""
    return {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}


def inner_optimizers(optimizer: Optimizer) -> list[Optimizer]:
    """The optimizers that an optimizer holds in its attributes, however deep."""
    found: dict[int, Optimizer] = {}
    rest: list[Optimizer] = [optimizer]
    while rest:
        for _, value in _held(rest.pop()):
            if isinstance(value, Optimizer) and value is not optimizer and id(value) not in found:
                found[id(value)] = value
                rest.append(value)
    return list(found.values())


def constructed_states(optimizer: Optimizer) -> list[Made]:
    """The states that the constructors of an optimizer, and of those that it holds, have made."""
    if not hasattr(optimizer, "param_groups"):
        return []
    return [made for one in (optimizer, *inner_optimizers(optimizer)) for made in made_states(one, trained_by(one))]


def _with_moments(optimizer: Optimizer) -> set[int]:
    """The ids of the parameters of which an optimizer holds moments; LBFGS has those of all with its first one."""
    held = {id(p) for p, state in optimizer.state.items() if isinstance(p, Tensor) and state}
    joint = {id(p) for name in _joint(optimizer) for p in optimizer.state[name]}
    return trained_by(optimizer) if held and isinstance(optimizer, LBFGS) else held | joint


def _joint(optimizer: Optimizer) -> list[Any]:
    """The entries of an optimizer's state that hold moments of all its parameters together, under a name."""
    return [name for name, held in optimizer.state.items() if isinstance(name, str) and isinstance(held, Mapping)]


def drop_joint_moments(optimizer: Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Drop the moments that an optimizer has of all its parameters together, where ``parameters`` are among them."""
    given = set(map(id, parameters))
    for one in (optimizer, *inner_optimizers(optimizer)):
        if isinstance(one, LBFGS) and given & trained_by(one):
            one.state.clear()
        for name in _joint(one):
            if given & set(map(id, one.state[name])):
                del one.state[name]


def restore(optimizer: Optimizer) -> None:
    """Give an optimizer its own methods back, and let LBFGS count its numbers anew."""
    for name in OWN_METHODS:
        if callable(optimizer.__dict__.get(name)):  # and no setting of that name
            del optimizer.__dict__[name]
    for one in (optimizer, *inner_optimizers(optimizer)):
        if isinstance(one, LBFGS):
            one._numel_cache = None


def check_own(optimizer: Optimizer, weights: Iterable[nn.Parameter]) -> None:
    """See that an optimizer, and what it holds, keeps no weights, nor tensors made from some, beside its groups.

    Raises:
        TargetSpaceError: it does.
    """
    given = {id(weight): weight for weight in weights}
    shapes = {weight.shape for weight in given.values() if weight.dim() > 1}
    for each in (optimizer, *inner_optimizers(optimizer)):
        for name, value in _held(each):
            if isinstance(value, Tensor) and (id(value) in given or value.shape in shapes):
                what = "weights" if id(value) in given else f"a tensor {tuple(value.shape)}, the shape of weights,"
                raise TargetSpaceError(
                    f"{type(each).__name__} keeps {what} in its attribute '{name}', where targets cannot take their "
                    f"place. Let it read self.param_groups in every step, and make such tensors in its first one; or "
                    f"train in weight space: target_space=None."
                )


def _held(optimizer: Optimizer) -> Iterator[tuple[str, Any]]:
    """What an optimizer's attributes hold, in containers, too, with the attribute's name; but for parameter groups."""
    groups = {id(group["params"]) for group in optimizer.param_groups}
    rest = [(name, value, _DEEP) for name, value in vars(optimizer).items() if name not in _USUAL]
    while rest:
        name, value, deep = rest.pop()
        if id(value) in groups or not deep:
            continue
        if isinstance(value, Mapping):
            rest += [(name, item, deep - 1) for pair in value.items() for item in pair]
        elif isinstance(value, (list, tuple, set, frozenset)):
            rest += [(name, item, deep - 1) for item in value]
        else:
            yield name, value


def _move(original: Callable[..., Any], prepare: Callable[[], None], *args: Any, **kwargs: Any) -> Any:
    """Let the weights follow at once: what comes next evaluates or saves them."""
    result = original(*args, **kwargs)
    prepare()
    return result


def _zero_grad(
    original: Callable[..., None], clear: Callable[[], None], prepare: Callable[[], None], set_to_none: bool = True
) -> None:
    clear()  # first, so that nothing is left to pull back where the targets' gradients are looked at
    original(set_to_none)
    prepare()  # where targets were moved, as sharpness-aware minimisation does before its second forward


def _add_param_group(original: Callable[..., None], names: Mapping[int, str], group: dict[str, Any]) -> None:
    """Add a group without weights that are solved, which are trained already by their targets."""
    given = group["params"]
    parameters = [given] if isinstance(given, Tensor) else list(given)
    kept = [p for p in parameters if id(p[1] if isinstance(p, tuple) else p) not in names]
    if len(kept) < len(parameters):
        left = [names[id(p)] for p in (p[1] if isinstance(p, tuple) else p for p in parameters) if id(p) in names]
        warnings.warn(
            f"Left out of a new parameter group: the weights of {', '.join(dict.fromkeys(left))}, which are solved "
            f"from targets that are trained already.",
            stacklevel=3,
        )
    if kept or not parameters:
        original({**group, "params": kept})
