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

    def own(self, owner: Any, name: str) -> Callable[..., Any]:
        """An object's own method, whatever covers it."""
        found = (cover for cover in reversed(self._covers) if cover.owner is owner and cover.name == name)
        return next(found, _Cover(owner, name)).own()

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

    Attributes:
        owner: the first of these.
        name: the second one.
    """

    def __init__(self, owner: Any, name: str, method: Callable[..., Any] | None = None) -> None:
        self.owner, self.name, self._method = owner, name, method
        found = owner.__dict__.get(name)
        self._given: Any = found._given if isinstance(found, _Cover) else found  # by somebody, before

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        assert self._method is not None
        return self._method(*args, **kwargs)

    def own(self) -> Callable[..., Any]:
        """The owner's own method."""
        return _own(self.owner, self.name) if self._given is None else self._given

    def remove(self) -> None:
        """Let the owner have its own method again."""
        if self._given is None:
            self.owner.__dict__.pop(self.name, None)
        else:
            self.owner.__dict__[self.name] = self._given

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (_own, (self.owner, self.name)) if self._given is None else (_itself, (self._given,))


def _own(owner: Any, name: str) -> Callable[..., Any]:
    """The method of an object's class."""
    method: Callable[..., Any] = inspect.getattr_static(type(owner), name).__get__(owner, type(owner))
    return method


def _itself(method: Callable[..., Any]) -> Callable[..., Any]:
    return method
