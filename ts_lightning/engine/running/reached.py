"""What a function can write to beside its arguments, to put it back.

Global variables that it names, also by a module of a user's (``helpers.count``), those of functions of a user's that it
names in turn, attributes of a user's classes among these, what it closes over, and defaults.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

from ts_lightning.engine.running.generators import names_of
from ts_lightning.engine.running.libraries import of_user

_MISSING = object()


class Reached:
    """A record of what functions can write to.

    Functions and classes are added by iterators over what they can reach: a container, a key and what stands there; or
    None, None and an object.
    """

    def __init__(self) -> None:
        self._seen: dict[int, Any] = {}
        self._names: list[tuple[dict[str, Any], str, Any]] = []
        self._attributes: list[tuple[type, str, Any]] = []
        self._cells: list[tuple[Any, Any]] = []

    def add(self, function: Any) -> Iterator[tuple[Any, Any, Any]]:
        """Record what a function, a method, a ``functools.partial`` or an object can write to."""
        while hasattr(function, "func"):  # a functools.partial
            yield None, None, function.args
            yield None, None, function.keywords
            function = function.func
        yield None, None, getattr(function, "__self__", None)
        function = getattr(function, "__func__", function)
        if not isinstance(function, FunctionType):
            yield None, None, function
            return
        if id(function) in self._seen:
            return
        self._seen[id(function)] = function
        yield None, None, function.__defaults__
        yield None, None, function.__kwdefaults__
        names, modules = names_of(function.__code__), []
        for cell in function.__closure__ or ():
            try:
                value = cell.cell_contents
            except ValueError:  # not filled yet
                continue
            self._cells.append((cell, value))
            modules.append(value)
            yield None, None, value
        for name in names:
            yield from self._named(function.__globals__, name)
            modules.append(function.__globals__.get(name, sys.modules.get(name)))  # the latter of an import within
        for module in modules:
            if isinstance(module, ModuleType) and of_user(module.__name__):
                for name in names & vars(module).keys():
                    yield from self._named(vars(module), name)

    def add_class(self, kind: type) -> Iterator[tuple[Any, Any, Any]]:
        """Record the attributes of a class, without its methods."""
        if id(kind) in self._seen:
            return
        self._seen[id(kind)] = kind
        for name, value in vars(kind).items():
            if not name.startswith("__") and not hasattr(value, "__get__"):
                self._attributes.append((kind, name, value))
                yield None, None, value

    def restore(self) -> None:
        """Put it back."""
        for cell, value in self._cells:
            cell.cell_contents = value
        for space, name, value in self._names:
            if value is _MISSING:
                space.pop(name, None)
            elif space.get(name, _MISSING) is not value:
                space[name] = value
        for kind, name, value in self._attributes:
            if vars(kind).get(name, _MISSING) is not value:
                setattr(kind, name, value)

    def _named(self, space: dict[str, Any], name: str) -> Iterator[tuple[Any, Any, Any]]:
        value = space.get(name, _MISSING)
        self._names.append((space, name, value))
        if isinstance(value, (FunctionType, type)):
            if of_user(value.__module__):
                yield from self.add_class(value) if isinstance(value, type) else self.add(value)
        elif value is not _MISSING:
            yield space, name, value
