"""Names of modules and weights: how they are written, which of them globs of the user's mean, and who owns a weight."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.parameter import is_lazy

from ts_lightning.checks import check_patterns
from ts_lightning.engine.memory import sharing
from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers.registry import inner_modules, own_weights

_LISTED = 3  # names that a text gives, the others are counted


def plain_name(name: str) -> str:
    """A module's name without the prefixes that torch.compile adds."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def is_matrix(parameter: nn.Parameter) -> bool:
    """Whether a parameter has more than one dimension; one that a lazy module has not made yet has none."""
    return not is_lazy(parameter) and parameter.dim() > 1


def kind_of(module: nn.Module) -> str:
    """The name of a module's class, with "nn." for PyTorch's own."""
    name = type(module).__name__
    return f"nn.{name}" if type(module).__module__.startswith("torch.nn.modules.") else name


def choosable_names(modules: Mapping[str, nn.Module]) -> list[str]:
    """What names and globs can mean: modules, and weights that modules hold beside the layers that they are."""
    names = []
    for name, module in modules.items():
        layers = {id(p) for p in own_weights(module) or ()}
        beside = [own for own, p in module.named_parameters(recurse=False) if id(p) not in layers and is_matrix(p)]
        names += [name, *(join(name, own) for own in beside)]
    return names


def join(*names: str) -> str:
    """A name within a module."""
    return ".".join(name for name in names if name)


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: the first few, and how many more there are where these are two or more."""
    more = len(names) - _LISTED
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:_LISTED])} and {more} more"


def matches(name: str, *patterns: str) -> bool:
    """Whether one of the globs means a name; a container's name stands for all that it holds."""
    return any(fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*") for pattern in patterns)


def matching(
    patterns: Sequence[str], names: Iterable[str], option: str, problems: list[TargetSpaceError]
) -> dict[str, None]:
    """The names that the patterns match, in order; a container's name stands for all that it holds.

    An error for each pattern that matches nothing is added to ``problems``.
    """
    names = [name for name in names if name]
    found: dict[str, None] = {}
    for pattern in patterns:
        hits = [name for name in names if matches(name, pattern)]
        if not hits:
            close = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4)
            hint = f"Close names: {', '.join(close)}." if close else f"Names are, for example: {', '.join(names[:5])}."
            problems.append(TargetSpaceError(f"{option}: '{pattern}' matches no layer. {hint}"))
        found.update(dict.fromkeys(hits))
    return found


def chosen(patterns: Collection[str] | None, names: Iterable[str], option: str) -> dict[str, None] | None:
    """As :func:`matching`, where a pattern that matches nothing is refused; None for None, which means all.

    Raises:
        TypeError: ``patterns`` is no list of names or globs.
        TargetSpaceError: one of them matches nothing.
    """
    if patterns is None:
        return None
    problems: list[TargetSpaceError] = []
    found = matching(check_patterns(option, patterns), names, option, problems)
    for problem in problems:
        raise problem
    return found


def owners_of(model: nn.Module) -> dict[int, list[str]]:
    """For each parameter, the names under which modules hold it or its memory; one registered twice counts once."""
    owners: dict[int, dict[str, None]] = {}
    for prefix, module in model.named_modules():
        whole = bool(inner_modules(module))  # whose parameters are the module's own
        for name, parameter in module.named_parameters(recurse=whole, remove_duplicate=False):
            owners.setdefault(id(parameter), {})[plain_name(f"{prefix}.{name}" if prefix else name)] = None
    for group in sharing(p for p in model.parameters() if not is_lazy(p)):
        names = {name: None for parameter in group for name in owners[id(parameter)]}
        owners.update({id(parameter): names for parameter in group})
    return {parameter: list(names) for parameter, names in owners.items()}
