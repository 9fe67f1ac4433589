"""Methods that stand for those of Lightning's objects during a fit, and that copies of these objects leave behind.

A Trainer, its strategy or a callback is copied or pickled in mid-fit more often than it seems: a datamodule holds its
Trainer, and goes with a bound ``collate_fn`` to every worker process that is started anew.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


class Covers:
    """Methods that stand for objects' own, until :meth:`uncover`.

    An object's own method is that of its class, or what somebody has put in its place before.
    """

    def __init__(self) -> None:
        self._covers: list[_Cover] = []

    def cover(self, owner: Any, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        """Let ``method`` stand for the owner's, which is returned."""
        cover = _Cover(owner, name, method)
        owner.__dict__[name] = cover
        self._covers.append(cover)
        return cover.own()

    @staticmethod
    def own(owner: Any, name: str) -> Callable[..., Any]:
        """An object's own method, whatever covers it."""
        found: Callable[..., Any] = getattr(owner, name)
        return found.own() if isinstance(found, _Cover) else found

    def uncover(self) -> None:
        """Let the objects have their own methods again."""
        for cover in reversed(self._covers):
            cover.remove()
        self._covers = []


class _Cover:
    """Calls a method in the place of an owner's own; in a copy of the owner stands the copy's own.

    Args:
        owner: whose method is covered.
        name: of the method.
        method: that stands for it.
    """

    def __init__(self, owner: Any, name: str, method: Callable[..., Any]) -> None:
        self._owner, self._name, self._method = owner, name, method
        found = owner.__dict__.get(name)
        self._given: Any = found._given if isinstance(found, _Cover) else found  # by somebody, before

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._method(*args, **kwargs)

    def own(self) -> Callable[..., Any]:
        """The owner's own method."""
        return _own(self._owner, self._name) if self._given is None else self._given

    def remove(self) -> None:
        """Let the owner have its own method again."""
        if self._given is None:
            self._owner.__dict__.pop(self._name, None)
        else:
            self._owner.__dict__[self._name] = self._given

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (_own, (self._owner, self._name)) if self._given is None else (_itself, (self._given,))


def _own(owner: Any, name: str) -> Callable[..., Any]:
    """The method of an object's class."""
    method: Callable[..., Any] = inspect.getattr_static(type(owner), name).__get__(owner, type(owner))
    return method


def _itself(method: Callable[..., Any]) -> Callable[..., Any]:
    return method
