"""Whether a model still has the modules and parameters that its targets were made for.

In mid-training heads are replaced, adapters added, parametrizations registered, weights pruned or tied. Targets of the
layers before would then be solved into parameters that nobody uses any more, and new parameters would lack the part of
their gradient that is pulled back.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from operator import is_
from typing import Any

from torch import nn

from ts_lightning.engine.names import listed
from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers.base import TargetLayer
from ts_lightning.layers.functional import FunctionalLayer


class Structure:
    """The modules and parameters of one model, as they were when this was made.

    Args:
        model: the model.
        layers: which are solved; a mask that came to hold zeros takes one out, as pruning does that begins without any.
        frozen: parameters that were frozen when targets were made.
    """

    def __init__(self, model: nn.Module, layers: Sequence[TargetLayer], frozen: Iterable[nn.Parameter]) -> None:
        self._model = model
        self._layers = layers
        self._scaled = [layer for layer in layers if isinstance(layer, FunctionalLayer)]
        self._found = _found(model)
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._frozen = list(frozen)
        self._added: list[nn.Parameter] = []  # frozen since then

    def follow(self, release: Callable[[], None]) -> str | None:
        """In words, which parameters are others than those of the targets; where modules are, the next solve is new."""
        changed, parameters = self.compare()
        if changed and parameters is None:
            release()
        return parameters

    def check(self, release: Callable[[], None]) -> None:
        """Raise TargetSpaceError, behind a release so that another space can be made, if parameters are others."""
        if changed := self.follow(release):
            release()
            raise TargetSpaceError(
                f"The model has other parameters than its targets were made for ({changed}). Make another TargetSpace "
                f"of it, with init='weights' to go on from its weights, and another optimizer."
            )

    def compare(self) -> tuple[bool, str | None]:
        """What has changed since then; other modules without other parameters are told once.

        Returns:
            Whether anything has, and which parameters are new, gone, or of another name, in words; None where all are
            as they were.
        """
        masked = [layer.module_name for layer in self._scaled if layer.masked]
        if masked:
            return True, f"multiplied by zeros: {listed(masked)}"
        found = _found(self._model)
        if _same(found, self._found) and not any(parameter.requires_grad for parameter in self._added):
            return False, None
        moved = self._moved(found)
        if moved:
            return True, f"held by other modules: {listed(moved)}"
        # a frozen module is no more than an activation, also where another takes its place, as a teacher's copy does
        frozen = {id(parameter) for parameter in self._frozen if not parameter.requires_grad}
        known = {number: name for number, name in self._names.items() if number not in frozen}
        held = [(name, p) for name, p in self._model.named_parameters() if p.requires_grad or id(p) in known]
        names = {id(parameter): name for name, parameter in held}
        if names == known and _holders(found, known) == _holders(self._found, known):
            self._found = found
            self._added = [parameter for parameter in self._model.parameters() if id(parameter) not in self._names]
            return True, None
        kinds = {
            "new": [name for number, name in names.items() if number not in known],
            "gone": [name for number, name in known.items() if number not in names],
            "of another name": [
                f"{known[number]} ({name})" for number, name in names.items() if known.get(number, name) != name
            ],
        }
        told = [f"{kind}: {listed(found)}" for kind, found in kinds.items() if found]
        return True, "; ".join(told) or "the same parameters, held by other modules"

    def _moved(self, found: Sequence[Any]) -> list[str]:
        """Names of the trained layers whose parameters other modules hold now, as those of simulated quantisation."""
        there = set(map(id, found))
        layers = [layer for layer in self._layers if id(layer.module) not in there]
        held = [layer for layer in layers if any(p.requires_grad and id(p) in there for p in layer.wholes)]
        return list(dict.fromkeys(layer.module_name for layer in held))


def _holders(found: Sequence[Any], known: Collection[int]) -> Counter[int]:
    """How many modules hold each parameter of these ids: a tie adds one, a second name of a module none."""
    return Counter(id(item) for item in found if id(item) in known)


def _found(model: nn.Module) -> list[Any]:
    """All modules, each once, and behind each the names and parameters that it holds by itself, in order.

    Pruning and spectral norm leave a layer's parameters in their order, under other names.
    """
    found: list[Any] = []
    seen: set[nn.Module] = set()
    rest: list[Any] = [model]
    while rest:
        module = rest.pop()
        if module is None or module in seen:
            continue
        seen.add(module)
        found.append(module)
        inside = module.__dict__
        if "_modules" not in inside:  # of TorchScript
            found.extend(module._parameters.values())
            rest.extend(module._modules.values())
            continue
        if inside["_parameters"]:
            # TorchScript has no other way than keys(), and an enumeration's are of a subclass of str
            found.extend(map(sys.intern, map(str, inside["_parameters"].keys())))
            found.extend(inside["_parameters"].values())
        if inside["_modules"]:
            rest.extend(inside["_modules"].values())
    return found


def _same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    return len(one) == len(other) and all(map(is_, one, other))
