"""Which layers' inputs depend on what other layers, or they themselves, gave before: followed through one forward.

Values are followed, and not gradients: a state that is detached, or a token that is chosen by argmax, depends on the
layer before as well. What shares memory depends on the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ts_lightning.engine.memory import memory
from ts_lightning.engine.reference.calls import Calls
from ts_lightning.engine.running.batches import tensors_in

_SET: Any = Tensor.__setitem__


class Dependence:
    """What depends on what.

    Attributes:
        order: the names of the layers at all uses, in the order of the forward.
        sources: by layer name, the names of the layers on whose outputs its inputs depend, without another in between.
    """

    def __init__(self) -> None:
        self.order: list[str] = []
        self.sources: dict[str, set[str]] = {}
        self._of: dict[int, tuple[frozenset[str], Tensor]] = {}  # by address of memory, which the tensor keeps

    def use(self, name: str, given: Any, passed: Any) -> None:
        """A layer made ``passed`` of ``given``."""
        self.order.append(name)
        self.sources.setdefault(name, set()).update(self._names([given]))
        for tensor in tensors_of(passed):
            self._of[memory(tensor)] = (frozenset([name]), tensor)

    def follow(self, given: Sequence[Any], made: Any) -> None:
        """A function made, or wrote, ``made`` of what it was given."""
        names = self._names(given)
        if names:
            for tensor in tensors_of(made):
                old = self._of.get(memory(tensor), (frozenset[str](), tensor))[0]
                self._of[memory(tensor)] = (old | names, tensor)

    def add(self, sources: Mapping[str, Iterable[str]]) -> bool:
        """Add sources that were not followed, by layer name; returns whether there were new ones."""
        new = [
            (name, source) for name, given in sources.items() for source in given if source not in self.sources[name]
        ]
        for name, source in new:
            self.sources[name].add(source)
        return bool(new)

    def components(self) -> list[list[str]]:
        """The layers, each with those that depend on it and that it depends on, in an order in which they follow.

        By Tarjan's algorithm: strongly connected components (SIAM Journal on Computing 1(2), 1972).
        """
        number: dict[str, int] = {}
        lowest: dict[str, int] = {}
        stack: list[str] = []
        found: list[list[str]] = []

        def visit(name: str) -> None:
            number[name] = lowest[name] = len(number)
            stack.append(name)
            for source in sorted(self.sources[name], key=self.order.index):
                if source not in number:
                    visit(source)
                    lowest[name] = min(lowest[name], lowest[source])
                elif source in stack:
                    lowest[name] = min(lowest[name], number[source])
            if lowest[name] == number[name]:
                own = [stack.pop()]
                while own[-1] != name:
                    own.append(stack.pop())
                found.append(sorted(own, key=self.order.index))

        for name in dict.fromkeys(self.order):
            if name not in number:
                visit(name)
        return found

    def ancestors(self, names: Iterable[str]) -> set[str]:
        """The layers on which some layers depend, these among them."""
        found, waiting = set[str](), list(names)
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += self.sources[name]
        return found

    def recurs(self, component: Sequence[str]) -> bool:
        """Whether layers of a component depend on what they gave themselves."""
        return len(component) > 1 or component[0] in self.sources[component[0]]

    def _names(self, given: Iterable[Any]) -> frozenset[str]:
        """The layers on which what is given depends."""
        names: frozenset[str] = frozenset()
        for tensor in tensors_of(list(given)):
            known = self._of.get(memory(tensor))
            if known is not None:
                names |= known[0]
        return names


class FollowedCalls(Calls):
    """The calls of a forward, through which dependence is followed."""

    def __init__(self, dependence: Dependence, *args: Any) -> None:
        super().__init__(*args)
        self.dependence = dependence

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call ``func``, or what stands for it."""
        found = super().__torch_function__(func, types, args, kwargs)
        self.dependence.follow((*args, *(kwargs or {}).values()), args[0] if func is _SET else found)
        return found


def tensors_of(given: Any) -> list[Tensor]:
    """The tensors of an input of a layer or function, in any form."""
    if isinstance(given, (list, tuple)):
        return [tensor for entry in given for tensor in tensors_of(entry)]
    if hasattr(given, "tensors"):
        return list(tensors_in(given.tensors))
    if hasattr(given, "initial"):
        return [given.data, *given.initial]
    return list(tensors_in(given))
