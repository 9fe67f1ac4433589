"""Which layers of a model are solved by what is seen of its modules: names and globs in; layers, and what is left, out.

By default a layer that cannot be solved is left in weight space, with the reason. One that the user names is a problem,
and so is a name that nothing has; all problems of a model make one error. What only a run of the model tells
(``survey.py``) comes later.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import ParametrizationList

from ts_lightning.config import TargetSpaceConfig
from ts_lightning.engine.calls import Watch
from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers.base import TargetLayer
from ts_lightning.layers.registry import family, inner_modules, refusal, registered, supported


class Left(NamedTuple):
    """A layer that is left in weight space.

    Attributes:
        name: the module's.
        kind: its class, "nn.ConvTranspose2d" for one.
        reason: why it is not solved, in a few words.
    """

    name: str
    kind: str
    reason: str


@dataclass
class Selection:
    """What is solved of a model, and what is not.

    Attributes:
        layers: to solve, in the model's order.
        left: what stays in weight space, by the name of its module.
        problems: what cannot be done as asked.
        notes: errors of what is left, should nothing remain to be solved.
        asked: the names that the user chose; None where all were meant.
        excluded: those that the user excluded.
    """

    layers: list[TargetLayer] = field(default_factory=list)
    left: dict[str, Left] = field(default_factory=dict)
    problems: list[TargetSpaceError] = field(default_factory=list)
    notes: list[TargetSpaceError] = field(default_factory=list)
    asked: Mapping[str, None] | None = None
    excluded: Mapping[str, None] = field(default_factory=dict)

    def dropped(self, *names: str) -> bool:
        """Whether the user excluded what has these names, or chose others."""
        chosen = self.asked is None or any(name in self.asked for name in names)
        return not chosen or any(name in self.excluded for name in names)

    def leave(self, name: str, module: nn.Module, reason: str, error: TargetSpaceError) -> None:
        """Leave a module in weight space, or refuse it where the user named it.

        Args:
            name: its name.
            module: itself.
            reason: in a few words.
            error: in full.
        """
        self.left[name] = Left(name, kind_of(module), reason)
        self.layers = [layer for layer in self.layers if layer.module_name != name]
        (self.notes if self.asked is None else self.problems).append(error)

    def check(self, model: nn.Module) -> None:
        """Raise all problems as one error.

        Raises:
            TargetSpaceError: there are some, or nothing is left to solve.
        """
        problems = list(self.problems)
        if not problems and not self.layers:
            nothing = TargetSpaceError(
                f"No layer to solve in {type(model).__name__}: found {_census(model)}; expected at least one trainable "
                f"{supported()} that is neither excluded nor frozen."
            )
            problems = [nothing, *self.notes]
        if problems:
            raise _together(problems)


def _together(errors: Sequence[TargetSpaceError]) -> TargetSpaceError:
    text = "\n".join(map(str, errors))
    return TargetSpaceError(text)


def plain_name(name: str) -> str:
    """A module's name without the prefixes that torch.compile adds."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def kind_of(module: nn.Module) -> str:
    """The name of a module's class, with "nn." for PyTorch's own."""
    name = type(module).__name__
    return f"nn.{name}" if type(module).__module__.startswith("torch.nn.modules.") else name


def select_layers(model: nn.Module, config: TargetSpaceConfig) -> Selection:
    """The layers of ``model`` to solve as far as its modules tell.

    Raises:
        TargetSpaceError: a lazy layer, with all other problems.
    """
    modules = {plain_name(name): module for name, module in model.named_modules()}
    solvable = _solvable(modules)
    found = Selection()
    names = _names(modules)
    asked = None if config.layers is None else _match(config.layers, names, "layers", found.problems)
    dropped = _match(config.exclude, names, "exclude", found.problems)
    found.asked, found.excluded = asked, dropped
    lazy = _lazy(modules)
    frozen: list[str] = []
    owners = owners_of(model)
    for name, module in modules.items():
        if found.dropped(name) or name in lazy:
            continue
        kind, why = solvable.get(name), refusal(name, module)
        if (kind is None and why is None) or _patched(module):
            continue
        if not any(parameter.requires_grad for parameter in module.parameters()):
            if kind is not None:
                frozen.append(name)
            continue
        refused = _refused(name, module)
        if refused is not None:
            found.leave(name, module, *refused)
            continue
        assert kind is not None
        layers = [layer for layer in kind.of(name, module, config) if layer.name not in dropped]
        parameters = [parameter for layer in layers for parameter in layer.parameters]
        trainable = [parameter.requires_grad for parameter in parameters]
        shared = [owners[id(parameter)] for parameter in parameters if len(owners[id(parameter)]) > 1]
        if not any(trainable):
            frozen.append(name)
        elif not all(trainable):
            error = TargetSpaceError(
                f"layer '{name}' has a frozen weight or bias beside trainable ones. Targets set all of them together: "
                f"freeze all, or none, or add '{name}' to exclude."
            )
            found.leave(name, module, "partly frozen", error)
        elif shared:
            error = TargetSpaceError(
                f"layer '{name}' shares a weight: {', '.join(shared[0])} are one parameter. A weight solved from one "
                f"layer's targets cannot serve another: untie them, or add '{name}' to exclude."
            )
            others = [owner for owner in shared[0] if not owner.startswith(f"{name}.")]
            found.leave(name, module, f"tied to {', '.join(others)}", error)
        else:
            found.layers += layers
    if frozen:
        warnings.warn(f"Left out of target space because they are frozen: {', '.join(frozen)}.", stacklevel=4)
    if lazy:
        raise _together([*lazy.values(), *found.problems])
    return found


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
    solvable = _solvable(modules)
    for pattern in config.layers or ():
        hits = list(_match([pattern], _names(modules), "layers", []))
        some = {layer.module_name for layer in found.layers}
        if hits and not any(name in some or name in solvable or name in found.left for name in hits):
            known = ", ".join(f"{name} ({type(modules[name]).__name__})" for name in hits[:5] if name in modules)
            found.problems.append(
                TargetSpaceError(
                    f"layers: '{pattern}' matches nothing that can be solved, only {known}. Supported: {supported()}, "
                    f"and weights that linear functions and convolutions apply as they are."
                )
            )
    solved = {id(p) for layer in found.layers for p in layer.parameters}
    inner = {id(m): name for name, module in modules.items() for m in inner_modules(module)}
    for name, module in modules.items():
        matrices = [p for p in module.parameters(recurse=False) if p.requires_grad and p.dim() > 1]
        whole = inner.get(id(module), name)
        if not any(id(p) not in solved for p in matrices) or whole in found.left:
            continue
        if isinstance(module, ParametrizationList):
            name = name.rpartition(".parametrizations.")[0]
            module, reason = modules[name], "parametrized weight"
        else:
            reason = _why(module, matrices, watch)
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
    for name in _solvable(modules):
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
            own = {n: p for n, p in module.named_parameters(recurse=False) if p.requires_grad and p.dim() > 1}
            idle = [join(name, local) for local, p in own.items() if id(p) not in trained]
            found += [name] if len(idle) == len(own) == 1 and name else idle
    return found


def _solvable(modules: Mapping[str, nn.Module]) -> dict[str, type[TargetLayer]]:
    """The families of the modules that have one and are not used by another module without being called."""
    inner = {id(m) for module in modules.values() for m in inner_modules(module)}
    kinds = {name: family(module) for name, module in modules.items() if id(module) not in inner}
    return {name: kind for name, kind in kinds.items() if kind is not None}


def _refused(name: str, module: nn.Module) -> tuple[str, TargetSpaceError] | None:
    """Why a module of a class that is known cannot be solved: in a few words, and as an error."""
    why = refusal(name, module)
    if why is not None:
        return why
    if "forward" in vars(module):
        return "a forward set on the instance", TargetSpaceError(
            f"layer '{name}' ({type(module).__name__}) has a forward that was set on the instance. That is possible "
            f"with nn.Linear and nn.Conv*: add '{name}' to exclude, or give the change a subclass."
        )
    return None


def _patched(module: nn.Module) -> bool:
    """Whether a forward was set on a module's instance that reaches the weight by a function."""
    return "forward" in vars(module) and isinstance(module, (nn.Linear, nn.modules.conv._ConvNd))


def _names(modules: Mapping[str, nn.Module]) -> list[str]:
    """What names and globs can mean: modules, and weights of those that hold several without being layers."""
    names = []
    for name, module in modules.items():
        names.append(name)
        if registered(module) is None:
            names += [join(name, own) for own, p in module.named_parameters(recurse=False) if p.dim() > 1]
    return names


def join(*names: str) -> str:
    """A name within a module."""
    return ".".join(name for name in names if name)


def _lazy(modules: Mapping[str, nn.Module]) -> dict[str, TargetSpaceError]:
    """The error of each layer that has no weights yet."""
    return {
        name: TargetSpaceError(
            f"layer '{name}' ({type(module).__name__}) is lazy and has no weights yet. Run one forward pass before "
            f"training starts, or give its sizes."
        )
        for name, module in modules.items()
        if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params()  # type: ignore[misc]
    }


def _why(module: nn.Module, weights: Sequence[nn.Parameter], watch: Watch) -> str:
    """Why a module with these weights is no layer to solve, in a few words."""
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return "a table"
    if registered(module) is None and kind_of(module).startswith("nn."):
        return "not supported"
    if registered(module) is not None and module._parameters.get("weight") is None:
        return "a weight or option not supported"
    used = dict.fromkeys(name for p in weights for name in watch.others.get(id(p), ()))
    if used:
        return f"used by {', '.join(used)}"
    if any(id(p) in watch.calls for p in weights):
        return "applied in several ways"
    return "not called in the reference forward"


def _match(
    patterns: Sequence[str], names: Iterable[str], option: str, problems: list[TargetSpaceError]
) -> dict[str, None]:
    """The names that the patterns match, in order; a container's name stands for all that it holds.

    An error for each pattern that matches nothing is added to ``problems``.
    """
    names = [name for name in names if name]
    found: dict[str, None] = {}
    for pattern in patterns:
        hits = [n for n in names if fnmatchcase(n, pattern) or fnmatchcase(n, f"{pattern}.*")]
        if not hits:
            close = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4)
            hint = f"Close names: {', '.join(close)}." if close else f"Names are, for example: {', '.join(names[:5])}."
            problems.append(TargetSpaceError(f"{option}: '{pattern}' matches no layer. {hint}"))
        found.update(dict.fromkeys(hits))
    return found


def owners_of(model: nn.Module) -> dict[int, list[str]]:
    """For each parameter, the names under which modules hold it; a module registered twice counts once."""
    owners: dict[int, dict[str, None]] = {}
    for prefix, module in model.named_modules():
        whole = bool(inner_modules(module))  # whose parameters are the module's own
        for name, parameter in module.named_parameters(recurse=whole, remove_duplicate=False):
            owners.setdefault(id(parameter), {})[plain_name(f"{prefix}.{name}" if prefix else name)] = None
    return {parameter: list(names) for parameter, names in owners.items()}


def _census(model: nn.Module) -> str:
    kinds: dict[str, int] = {}
    for module in model.modules():
        if next(module.parameters(recurse=False), None) is not None:
            kinds[type(module).__name__] = kinds.get(type(module).__name__, 0) + 1
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "no layer with parameters"
