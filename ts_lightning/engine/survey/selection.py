"""Which layers of a model are solved by what is seen of its modules: names and globs in; layers, and what is left, out.

By default a layer that cannot be solved is left in weight space, with the reason. One that the user names is a problem,
and so is a name that nothing has; all problems of a model make one error. What only a run of the model tells
(``survey.py``) comes later.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from ts_lightning.config import TargetSpaceConfig
from ts_lightning.engine.names import choosable_names, kind_of, listed, matching, owners_of, plain_name
from ts_lightning.errors import NothingToSolve, TargetSpaceError
from ts_lightning.layers.base import TargetLayer
from ts_lightning.layers.registry import family, inner_modules, supported

_BY_FUNCTION = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd)  # whose forwards reach the weight by a function


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
            NothingToSolve: no layer is left to solve.
            TargetSpaceError: there are problems.
        """
        if self.problems:
            raise _together(self.problems)
        if not self.layers:
            rest = [f"{one.name or 'its own weights'} ({one.reason})" for one in self.left.values()]
            notes = f" In weight space: {listed(rest)}." if rest else ""
            notes += "".join(f"\n{note}" for note in self.notes)
            raise NothingToSolve(
                f"No layer to solve in {type(model).__name__}: found {_census(model)}; expected at least one trainable "
                f"{supported()} that is neither excluded nor frozen.{notes}"
            )


def _together(errors: Sequence[TargetSpaceError]) -> TargetSpaceError:
    text = "\n".join(map(str, errors))
    return TargetSpaceError(text)


def select_layers(model: nn.Module, config: TargetSpaceConfig) -> Selection:
    """The layers of ``model`` to solve as far as its modules tell.

    Raises:
        TargetSpaceError: a lazy layer, with all other problems.
    """
    modules = {plain_name(name): module for name, module in model.named_modules()}
    solvable = solvable_modules(modules)
    found = Selection()
    names = choosable_names(modules)
    asked = None if config.layers is None else matching(config.layers, names, "layers", found.problems)
    dropped = matching(config.exclude, names, "exclude", found.problems)
    found.asked, found.excluded = asked, dropped
    lazy = _lazy(modules)
    frozen: list[str] = []
    owners = owners_of(model)
    for name, module in modules.items():
        if found.dropped(name) or name in lazy:
            continue
        kind = solvable.get(name)
        if kind is None or _patched(module):
            continue
        if not any(parameter.requires_grad for parameter in module.parameters()):
            frozen.append(name)
            continue
        refused = _refused(name, module)
        if refused is not None:
            found.leave(name, module, *refused)
            continue
        layers = [layer for layer in kind.of(name, module, config) if layer.name not in dropped]
        parameters = [parameter for layer in layers for parameter in layer.parameters]
        trainable = [parameter.requires_grad for parameter in parameters]
        tied = [parameter for parameter in parameters if len(owners[id(parameter)]) > 1]
        shared = [owners[id(parameter)] for parameter in tied]
        if not any(trainable):
            frozen.append(name)
        elif not all(trainable):
            error = TargetSpaceError(
                f"layer '{name}' has a frozen weight or bias beside trainable ones. Targets set all of them together: "
                f"freeze all, or none, or add '{name}' to exclude."
            )
            found.leave(name, module, "partly frozen", error)
        elif shared:
            if not isinstance(module, _BY_FUNCTION) or any(parameter.dim() > 1 for parameter in tied):
                found.leave(name, module, *_tied(name, shared[0]))
            # of a bias alone the forward's calls are seen: the weight is solved with the bias as it is
        else:
            found.layers += layers
    if frozen:
        warnings.warn(f"Left out of target space because they are frozen: {listed(frozen)}.", stacklevel=4)
    if lazy:
        raise _together([*lazy.values(), *found.problems])
    return found


def solvable_modules(modules: Mapping[str, nn.Module]) -> dict[str, type[TargetLayer]]:
    """The families of the modules that have one and are not used by another module without being called."""
    inner = {id(m) for module in modules.values() for m in inner_modules(module)}
    kinds = {name: family(module) for name, module in modules.items() if id(module) not in inner}
    return {name: kind for name, kind in kinds.items() if kind is not None}


def _refused(name: str, module: nn.Module) -> tuple[str, TargetSpaceError] | None:
    """Why a module of a class that is known cannot be solved: in a few words, and as an error."""
    if any(parameter.is_complex() for parameter in module.parameters(recurse=False)):
        return "complex weights", TargetSpaceError(
            f"layer '{name}' ({type(module).__name__}) has complex weights, and targets are real. Add '{name}' to "
            f"exclude."
        )
    if any(parameter.numel() == 0 for parameter in module.parameters(recurse=False)):
        return "weights without entries", TargetSpaceError(
            f"layer '{name}' ({type(module).__name__}) has no inputs or no outputs. Add '{name}' to exclude."
        )
    if "forward" in vars(module):
        return "a forward set on the instance", TargetSpaceError(
            f"layer '{name}' ({type(module).__name__}) has a forward that was set on the instance. That is possible "
            f"with nn.Linear and nn.Conv*: add '{name}' to exclude, or give the change a subclass."
        )
    return None


def _tied(name: str, owners: Sequence[str]) -> tuple[str, TargetSpaceError]:
    """Why a module with a parameter of several names cannot be solved: in a few words, and as an error."""
    others = [owner for owner in owners if not owner.startswith(f"{name}.")]
    return f"tied to {', '.join(others or owners)}", TargetSpaceError(
        f"layer '{name}' shares a weight: {', '.join(owners)} are one parameter, or lie in one memory. A weight solved "
        f"from one layer's targets cannot serve another: untie them, or add '{name}' to exclude."
    )


def _patched(module: nn.Module) -> bool:
    """Whether a forward was set on a module's instance that reaches the weight by a function."""
    return "forward" in vars(module) and isinstance(module, _BY_FUNCTION)


def _lazy(modules: Mapping[str, nn.Module]) -> dict[str, TargetSpaceError]:
    """The error of each layer that has no weights yet."""
    return {
        name: TargetSpaceError(
            f"layer '{name}' ({type(module).__name__}) is lazy and has no weights yet, since the reference forward "
            f"does not call it. Give its sizes, or let a forward call it before training starts."
        )
        for name, module in modules.items()
        if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params()  # type: ignore[misc]
    }


def _census(model: nn.Module) -> str:
    kinds: dict[str, int] = {}
    for module in model.modules():
        if next(module.parameters(recurse=False), None) is not None:
            kind, name = kind_of(module), type(module).__name__
            if not kind.startswith("nn.") and hasattr(nn, name):  # of the same name, as those of quantisation
                name += f" of {type(module).__module__}"
            kinds[name] = kinds.get(name, 0) + 1
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "no layer with parameters"
