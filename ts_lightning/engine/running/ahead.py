"""Iterators that are read ahead of training, which still gets every item, in order and once.

Iterators of libraries, as of loaders and of ``itertools``, and generators cannot be put back behind a pass over the
reference batch. So a pass reads ahead of those that modules hold, and every pass gets the items of the first one.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator
from typing import Any

from ts_lightning.engine.running.copies import fresh
from ts_lightning.engine.running.generators import LIGHTNING
from ts_lightning.engine.running.libraries import of_user


def is_iterator(value: Any) -> bool:
    """Whether a value is an iterator that cannot be put back; one of a user's own class is put back as any object."""
    kind = type(value)
    if not (hasattr(kind, "__next__") and hasattr(kind, "__iter__")) or issubclass(kind, io.IOBase):
        return False
    module = str(kind.__module__)
    return not (of_user(module) or module.startswith(LIGHTNING))  # a CombinedLoader has __next__, too


class Ahead:
    """An iterator that gives what was read ahead of another one, and then goes on; it has the other's attributes."""

    def __init__(self, iterator: Any) -> None:
        self.iterator = iterator
        self.taken: deque[Any] = deque()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self.taken.popleft() if self.taken else next(self.iterator)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "iterator":  # the latter of a copy that is being made
            raise AttributeError(name)
        return getattr(self.iterator, name)

    def read(self) -> Any:
        """The first item that was not read yet, which stays to come."""
        self.taken.append(next(self.iterator))
        return self.taken[-1]


class Reading(Ahead):
    """Stands for an iterator in one pass.

    Args:
        iterator: that training goes on with.
        items: what earlier passes have read, which this one begins with and adds to.

    Attributes:
        given: the iterator.
    """

    def __init__(self, iterator: Iterator[Any], items: list[Any]) -> None:
        super().__init__(iterator if isinstance(iterator, Ahead) else Ahead(iterator))
        self.given, self._items, self._place = iterator, items, 0

    def __next__(self) -> Any:
        if not self._items:
            self._items.extend(map(fresh, self.iterator.taken))
        if self._place == len(self._items):
            self._items.append(fresh(self.iterator.read()))
        self._place += 1
        return fresh(self._items[self._place - 1])

    def left(self) -> Iterator[Any]:
        """What training goes on with: the iterator itself, unless something was read ahead of it."""
        return self.iterator if self.iterator.taken else self.given


class Iterators:
    """The iterators that stand in containers in one run.

    Args:
        items: what earlier runs have read, by the id of the container and the key there, each with the container;
            added to.
    """

    def __init__(self, items: dict[tuple[int, Any], tuple[Any, list[Any]]]) -> None:
        self._items = items
        self._found: list[tuple[Any, Any, Any]] = []  # container, key, iterator
        self._readings: list[tuple[Any, Any, Reading]] = []

    def add(self, container: Any, key: Any, iterator: Any) -> None:
        """Record an iterator."""
        self._found.append((container, key, iterator))

    def read_ahead(self) -> None:
        """Put what reads ahead in their place."""
        readings: dict[int, Reading] = {}
        for container, key, iterator in self._found:
            if id(iterator) not in readings:
                items = self._items.setdefault((id(container), key), (container, []))[1]
                readings[id(iterator)] = Reading(iterator, items)
            container[key] = readings[id(iterator)]
            self._readings.append((container, key, readings[id(iterator)]))

    def restore(self) -> None:
        """Put what training goes on with in their place."""
        for container, key, reading in self._readings:
            container[key] = reading.left()
