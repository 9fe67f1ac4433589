"""What is not solved of a model, with the reason: of all that was meant to be, and of what an optimizer leaves out."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from ts_lightning.config import TargetSpaceConfig
from ts_lightning.engine.names import choosable_names, is_matrix, join, kind_of, matching, owners_of, plain_name
from ts_lightning.engine.reference.call_sites import IN_A_TRANSFORM
from ts_lightning.engine.reference.reference_pass import unreached
from ts_lightning.engine.reference.watch import IN_PART, IN_SEVERAL_WAYS, Watch
from ts_lightning.engine.survey.functions import unfit_parts
from ts_lightning.engine.survey.selection import Left, Selection, solvable_modules
from ts_lightning.errors import TargetSpaceError, Unreached
from ts_lightning.layers.registry import family, inner_modules, registered, supported

_PARAMETRIZED = "parametrized weight"
_NOT_CALLED = "not called in the reference forward"
_LOOK_UPS = {"embedding", "embedding_bag"}  # functions that take rows of a table


def name_the_rest(model: nn.Module, found: Selection, config: TargetSpaceConfig, watch: Watch) -> None:
    """Add to ``found.left`` every other module that has trainable matrices and was meant to be solved.

    Norms and other vectors are not counted: targets have no place for them. A name or glob of the user's that gives
    nothing to solve is a problem.

    Args:
        model: the model.
        found: all that is solved; added to.
        config: the settings.
        watch: what the model's functions do with its parameters.
    """
    modules = {plain_name(name): module for name, module in model.named_modules()}
    solvable = solvable_modules(modules)
    solved = {id(p) for layer in found.layers for p in layer.wholes}
    some = {layer.module_name for layer in found.layers}
    some |= {plain_name(name) for name, p in model.named_parameters() if id(p) in solved}
    for pattern in config.layers or ():
        hits = list(matching([pattern], choosable_names(modules), "layers", []))
        if hits and not any(name in some or name in solvable or name in found.left for name in hits):
            known = ", ".join(f"{name} ({type(modules[name]).__name__})" for name in hits[:5] if name in modules)
            found.problems.append(
                TargetSpaceError(
                    f"layers: '{pattern}' matches nothing that can be solved, only {known}. Supported: {supported()}, "
                    f"and weights that linear functions and convolutions apply as they are."
                )
            )
    inner = {id(m): name for name, module in modules.items() for m in inner_modules(module)}
    owners = owners_of(model)
    for name, module in modules.items():
        trained = {join(name, n): p for n, p in module.named_parameters(recurse=False) if p.requires_grad}
        own = {n: p for n, p in trained.items() if is_matrix(p) or id(p) in watch.calls}
        named = found.left.keys() | found.excluded.keys()
        matrices = [p for n, p in own.items() if id(p) not in solved and n not in named]
        whole = inner.get(id(module), name)
        if not matrices or whole in found.left:
            continue
        if isinstance(module, ParametrizationList):
            name = name.rpartition(".parametrizations.")[0]
            module, reason = modules[name], _PARAMETRIZED
        else:
            reason = _why(module, matrices, watch)
            others = [owner for p in matrices for owner in owners[id(p)] if own.get(owner) is not p]
            if reason == IN_SEVERAL_WAYS and others:
                reason = f"tied to {', '.join(others)}"
        if name in found.left or found.dropped(name):
            continue
        found.left[name] = Left(name, kind_of(module), reason)


def untrained_layers(model: nn.Module, trained: set[int]) -> list[str]:
    """The names of supported, trainable layers whose weight isn't in ``trained`` (by id).

    Among these are weights of other modules than PyTorch's own, which functions may apply.
    """
    found = []
    modules = {plain_name(name): module for name, module in model.named_modules()}
    names = {id(module): name for name, module in modules.items()}
    for name in solvable_modules(modules):
        module = modules[name]
        if not all(p.requires_grad for p in module.parameters(recurse=False)):
            continue
        if id(next(module.parameters(recurse=False))) not in trained:
            found.append(name)
        else:
            inner = inner_modules(module)
            found += [names[id(m)] for m in inner if id(next(m.parameters(recurse=False))) not in trained]
    for name, module in modules.items():
        if registered(module) is None and not kind_of(module).startswith("nn."):
            own = {n: p for n, p in module.named_parameters(recurse=False) if p.requires_grad and is_matrix(p)}
            idle = [join(name, local) for local, p in own.items() if id(p) not in trained]
            found += [name] if len(idle) == len(own) == 1 and name else idle
    return found


def _why(module: nn.Module, weights: Sequence[nn.Parameter], watch: Watch) -> str:
    """Why a module with these weights is no layer to solve, in a few words."""
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return "a table"
    if isinstance(module, torch.jit.ScriptModule):
        return "of TorchScript"
    own = not isinstance(module, (nn.ParameterList, nn.ParameterDict))  # whose parameters others use
    if own and registered(module) is None and kind_of(module).startswith("nn."):
        return "not supported"
    if registered(module) is not None and family(module) is None and module._parameters.get("weight") is None:
        if any(type(hook).__module__.startswith("torch.nn.utils.") for hook in module._forward_pre_hooks.values()):
            return _PARAMETRIZED
        return "a weight or option not supported"
    return use_of(weights, watch)


def use_of(weights: Sequence[Tensor], watch: Watch) -> str:
    """What functions do with weights that are of no layer that a module's call or a function is, in a few words."""
    unfit = [why for why in map(watch.why_unfit, weights) if why is not None]
    for calls in (watch.calls.get(id(p), ()) for p in weights):
        if calls and all(call.why is not None for call in calls):
            unfit.append(str(calls[0].why))
    if unfit:
        return unfit[0]
    used = dict.fromkeys(name for p in weights for name in watch.others.get(id(p), ()))
    if used:
        return "a table" if used.keys() <= _LOOK_UPS else f"used by {', '.join(used)}"
    if any(id(p) in watch.calls for p in weights):
        return next(filter(None, (unfit_parts(p, watch) for p in weights)), IN_SEVERAL_WAYS)
    if any(id(p) in watch.transformed for p in weights):
        return IN_A_TRANSFORM
    added = {id(call.added.weight) for calls in watch.calls.values() for call in calls if call.added is not None}
    if not added.isdisjoint(map(id, weights)):
        return "added to what is not solved"
    return _NOT_CALLED


def check_reached(found: Selection, targets: Collection[str]) -> None:
    """Raise Unreached if a state has targets of what the forward does not call, or a function not apply, any more."""
    missed = [name for note in found.notes if isinstance(note, Unreached) for name in note.modules]
    missed += [left.name for left in found.left.values() if left.reason in (_NOT_CALLED, IN_PART)]
    lost = set(targets) - {layer.name for layer in found.layers}
    gone = dict.fromkeys(name for name in missed if any(f"{target}.".startswith(f"{name}.") for target in lost))
    if gone:
        raise unreached(*gone)
