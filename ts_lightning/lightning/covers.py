"""Methods that stand for those of Lightning's objects during a fit, and that copies of these objects leave behind.

A Trainer, its strategy or a callback is copied or pickled in mid-fit more often than it seems: a datamodule holds its
Trainer, and goes with a bound ``collate_fn`` to every worker process that is started anew.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


class Covers:
    """Methods that stand for objects' own, until :meth:`uncover`."""

    def __init__(self) -> None:
        self._places: list[tuple[Any, str]] = []

    def cover(self, owner: Any, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        """Let ``method`` stand for the owner's, which is returned."""
        own: Callable[..., Any] = getattr(owner, name)
        owner.__dict__[name] = _Cover(owner, name, method)
        self._places.append((owner, name))
        return own

    def uncover(self) -> None:
        """Let the objects have their own methods again."""
        for owner, name in self._places:
            owner.__dict__.pop(name, None)
        self._places = []


class _Cover:
    """Calls a method in the place of an owner's own; in a copy of the owner stands the copy's own."""

    def __init__(self, owner: Any, name: str, method: Callable[..., Any]) -> None:
        self._owner, self._name, self._method = owner, name, method

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._method(*args, **kwargs)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, str]]:
        return own_method, (self._owner, self._name)


def own_method(owner: Any, name: str) -> Callable[..., Any]:
    """The method of an object's class, whatever covers it."""
    method: Callable[..., Any] = inspect.getattr_static(type(owner), name).__get__(owner, type(owner))
    return method
