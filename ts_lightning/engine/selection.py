"""Which layers of a model are solved: names and globs in, layers out, and everything refused that cannot work."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from ts_lightning.config import TargetSpaceConfig
from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers.base import TargetLayer
from ts_lightning.layers.registry import family, inner_modules, refusal, supported


def plain_name(name: str) -> str:
    """A module's name without the prefixes that torch.compile adds."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def select_layers(model: nn.Module, config: TargetSpaceConfig) -> list[TargetLayer]:
    """The layers of ``model`` to solve, in the model's order.

    Raises:
        TargetSpaceError: nothing to solve, a pattern without a match, an unsupported or lazy layer, tied weights.
    """
    modules = {plain_name(name): module for name, module in model.named_modules()}
    for name, module in modules.items():
        if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():  # type: ignore[misc]
            raise TargetSpaceError(
                f"layer '{name}' ({type(module).__name__}) is lazy and has no weights yet. Run one forward pass "
                f"before training starts, or give its sizes."
            )
    solvable = _solvable(modules)
    asked = None if config.layers is None else _match(config.layers, modules, "layers")
    dropped = _match(config.exclude, modules, "exclude")
    chosen: list[TargetLayer] = []
    frozen: list[str] = []
    owners = _owners(model)
    for pattern in config.layers or ():
        hits = list(_match([pattern], modules, "layers"))
        if not any(name in solvable for name in hits):
            found = ", ".join(f"{name} ({type(modules[name]).__name__})" for name in hits[:5])
            raise TargetSpaceError(
                f"layers: '{pattern}' matches nothing that can be solved, only {found}. Supported: {supported()}, "
                f"called as layers and without parametrizations."
            )
    for name, module in modules.items():
        if name in dropped or (asked is not None and name not in asked):
            continue
        refused = refusal(module)
        if refused is not None and any(p.requires_grad for p in module.parameters(recurse=False)):
            raise TargetSpaceError(f"layer '{name}' {refused}, or add '{name}' to exclude.")
        kind = solvable.get(name)
        if kind is None:
            continue
        if not any(parameter.requires_grad for parameter in module.parameters()):
            frozen.append(name)
            continue
        layers = [layer for layer in kind.of(name, module, config) if layer.name not in dropped]
        parameters = [parameter for layer in layers for parameter in layer.parameters]
        trainable = [parameter.requires_grad for parameter in parameters]
        if not all(trainable):
            if any(trainable):
                raise TargetSpaceError(
                    f"layer '{name}' has a frozen weight or bias beside trainable ones. Targets set all of them "
                    f"together: freeze all, or none, or add '{name}' to exclude."
                )
            frozen.append(name)
            continue
        for parameter in parameters:
            if len(owners[id(parameter)]) > 1:
                raise TargetSpaceError(
                    f"layer '{name}' shares a weight: {', '.join(owners[id(parameter)])} are one parameter. A weight "
                    f"solved from one layer's targets cannot serve another: untie them, or add '{name}' to exclude."
                )
        chosen += layers
    if frozen:
        warnings.warn(f"Left out of target space because they are frozen: {', '.join(frozen)}.", stacklevel=3)
    if not chosen:
        raise TargetSpaceError(
            f"No layer to solve in {type(model).__name__}: found {_census(modules)}; expected at least one trainable "
            f"{supported()} that is neither excluded nor frozen."
        )
    return chosen


def untrained_layers(model: nn.Module, trained: set[int]) -> list[str]:
    """The names of supported, trainable layers whose weight isn't in ``trained`` (by id)."""
    found = []
    modules = {plain_name(name): module for name, module in model.named_modules()}
    names = {id(module): name for name, module in modules.items()}
    for name in _solvable(modules):
        module = modules[name]
        if not all(p.requires_grad for p in module.parameters(recurse=False)):
            continue
        if id(next(module.parameters(recurse=False))) not in trained:
            found.append(name)
        else:
            inner = inner_modules(module)
            found += [names[id(m)] for m in inner if id(next(m.parameters(recurse=False))) not in trained]
    return found


def _solvable(modules: Mapping[str, nn.Module]) -> dict[str, type[TargetLayer]]:
    """The families of the modules that have one and are not used by another module without being called."""
    inner = {id(m) for module in modules.values() for m in inner_modules(module)}
    kinds = {name: family(module) for name, module in modules.items() if id(module) not in inner}
    return {name: kind for name, kind in kinds.items() if kind is not None}


def _match(patterns: Sequence[str], modules: Iterable[str], option: str) -> dict[str, None]:
    """The names that the patterns match, in order; a container's name stands for all that it holds."""
    names = [name for name in modules if name]
    found: dict[str, None] = {}
    for pattern in patterns:
        hits = [n for n in names if fnmatchcase(n, pattern) or fnmatchcase(n, f"{pattern}.*")]
        if not hits:
            close = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4)
            hint = f"Close names: {', '.join(close)}." if close else f"Names are, for example: {', '.join(names[:5])}."
            raise TargetSpaceError(f"{option}: '{pattern}' matches no layer. {hint}")
        found.update(dict.fromkeys(hits))
    return found


def _owners(model: nn.Module) -> dict[int, list[str]]:
    """For each parameter, the names under which modules hold it; a module registered twice counts once."""
    owners: dict[int, dict[str, None]] = {}
    for prefix, module in model.named_modules():
        whole = bool(inner_modules(module))  # whose parameters are the module's own
        for name, parameter in module.named_parameters(recurse=whole, remove_duplicate=False):
            owners.setdefault(id(parameter), {})[plain_name(f"{prefix}.{name}" if prefix else name)] = None
    return {parameter: list(names) for parameter, names in owners.items()}


def _census(modules: dict[str, nn.Module]) -> str:
    kinds: dict[str, int] = {}
    for module in modules.values():
        if next(module.parameters(recurse=False), None) is not None:
            kinds[type(module).__name__] = kinds.get(type(module).__name__, 0) + 1
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "no layer with parameters"
