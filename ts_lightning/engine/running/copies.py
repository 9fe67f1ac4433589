"""Copies of batches for a forward that may write to them, objects that hold tensors among what is copied."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ts_lightning.engine.running.batches import own, rebuilt

_DEEP = 4  # objects within objects that are looked into
_MANY = 4096  # entries of a container in an object, beyond which it is no part of a batch
_PLAIN = (list, tuple)


def fresh(batch: Any) -> Any:
    """A copy that can be written to: of tensors, of the lists and mappings around them, and of objects that hold some.

    An object that has a method ``clone``, as batches of graphs have, is copied by it; another one with its attributes,
    if any of these holds a tensor.
    """
    return _Copies().of(batch)


class _Copies:
    """One of each object in a batch, which may hold others and itself."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[Any, Any]] = {}  # by id: an object and its copy

    def of(self, value: Any, deep: int = _DEEP) -> Any:
        """A copy of what a batch is made of."""
        return rebuilt(value, own, lambda found: self._entries(found, deep), lambda found: self._object(found, deep))

    def _entries(self, values: Any, deep: int) -> Any:
        return type(values)(self.of(value, deep) for value in values) if type(values) in _PLAIN else copy.copy(values)

    def _object(self, value: Any, deep: int) -> Any:
        if id(value) in self._made:
            return self._made[id(value)][1]
        if isinstance(value, (type, nn.Module)) or not _holds(value, deep):
            return value
        try:
            found = self._cloned(value)
            if found is None:
                found = _empty(value)
                self._made[id(value)] = value, found
                for name, entry in _attributes(value).items():
                    object.__setattr__(found, name, self._attribute(entry, deep - 1))
        except Exception:  # whatever code of its class raises; it stays shared, as an object without tensors does
            found = value
        self._made[id(value)] = value, found
        return found

    def _cloned(self, value: Any) -> Any:
        """What the object's own method gives, if it has one that copies; otherwise None."""
        clone = getattr(type(value), "clone", None)
        try:
            found = clone(value) if callable(clone) and len(inspect.signature(clone).parameters) == 1 else None
        except Exception:  # whatever a method raises that is for something else; the attributes are copied
            return None
        return found if type(found) is type(value) else None

    def _attribute(self, entry: Any, deep: int) -> Any:
        """A copy of an attribute; a container of a class of its own is left to that class."""
        if isinstance(entry, (Mapping, list, tuple)) and (type(entry) not in (dict, *_PLAIN) or len(entry) > _MANY):
            return copy.copy(entry)
        return self.of(entry, deep) if deep > 0 else entry


def _empty(value: Any) -> Any:
    """A new object of a class, without a call of its constructor where that is possible."""
    try:
        return object.__new__(type(value))
    except TypeError:  # of a class that is not written in Python
        return copy.copy(value)


def _attributes(value: Any) -> dict[str, Any]:
    """An object's attributes, those in slots among them."""
    found = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                found[name] = getattr(value, name)
    return found


def _holds(value: Any, deep: int = _DEEP) -> bool:
    """Whether a value is a tensor or holds one, a few levels down."""
    if isinstance(value, Tensor):
        return True
    if not deep or isinstance(value, (type, nn.Module)):
        return False
    if isinstance(value, (Mapping, list, tuple)) and len(value) > _MANY:
        return False
    if isinstance(value, Mapping):
        inner: Any = value.values()
    else:
        inner = value if isinstance(value, (list, tuple)) else _attributes(value).values()
    return any(_holds(entry, deep - 1) for entry in inner)
