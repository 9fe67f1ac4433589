"""Generators of random numbers that objects hold: found, put back, and started at a seed.

Those of PyTorch (``torch.Generator``), of Python (``random.Random``) and of NumPy (``Generator``, ``RandomState``).
They are looked for as deep as code can reach them: in attributes, containers, what functions are bound to or close
over, and the global variables that a user's own functions name.
"""

from __future__ import annotations

import random
import sys
from argparse import ArgumentParser
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from logging import Logger
from types import CodeType, FunctionType, GetSetDescriptorType, MemberDescriptorType, MethodType, ModuleType
from typing import Any
from weakref import ProxyTypes

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler

from ts_lightning.engine.running.learned import ATOMIC, INTERNAL
from ts_lightning.engine.running.libraries import of_user

_MANY = 1000  # entries of a container, up to which these are looked into
_FEW = 64  # entries that are looked into of one with more
_MOST = 20_000  # objects that are looked into
_PLAIN = frozenset((bool, int, float, complex, str, bytes, type(None), Tensor))  # which are passed over
_CODE = (FunctionType, MethodType, partial, staticmethod, classmethod, property)
_CONTAINERS = (dict, list, tuple, set, frozenset, deque)
_OF_PROGRAMS = (ArgumentParser, Logger)  # large, reached from what a command line has made, and no code draws from them
#: how the names of modules of Lightning begin
LIGHTNING = ("lightning.", "pytorch_lightning.")


def is_generator(value: Any) -> bool:
    """Whether a value is a generator of random numbers that can be put back.

    Its type is asked, and not the value: a proxy of what is loaded when it is needed would load it.
    """
    numpy: Any = sys.modules.get("numpy")
    if issubclass(type(value), random.Random):  # of a user's own class it may have no state, as the system's
        return all(getattr(type(value), name) is getattr(random.Random, name) for name in ("getstate", "setstate"))
    kinds = () if numpy is None else (numpy.random.Generator, numpy.random.RandomState)
    return issubclass(type(value), (torch.Generator, *kinds))


def putting_back(generator: Any) -> Callable[[], Any]:
    """What puts a generator back to its present state."""
    if isinstance(generator, torch.Generator):
        state = generator.get_state()
        return partial(generator.set_state, state)
    if isinstance(generator, random.Random):
        return partial(generator.setstate, generator.getstate())
    if hasattr(generator, "bit_generator"):
        return partial(setattr, generator.bit_generator, "state", generator.bit_generator.state)
    return partial(generator.set_state, generator.get_state(legacy=False))


def start_at(generator: Any, seed: int) -> None:
    """Start a generator at a seed."""
    if isinstance(generator, torch.Generator):
        generator.manual_seed(seed)
    elif isinstance(generator, random.Random):
        generator.seed(seed)
    elif hasattr(generator, "bit_generator"):
        generator.bit_generator.state = type(generator.bit_generator)(seed).state
    else:
        generator.seed(seed % 2**32)


def held(*roots: Any) -> list[Any]:
    """The generators that objects hold, without those of Lightning's own objects, as of a Trainer."""
    found: dict[int, Any] = {}
    seen: dict[int, Any] = {}
    waiting = deque(roots)
    while waiting and len(seen) < _MOST:
        value = waiting.popleft()
        if id(value) in seen:
            continue
        seen[id(value)] = value
        if type(value) in ProxyTypes:  # which fail where what they stand for is gone
            continue
        if is_generator(value):
            found[id(value)] = value
        else:
            waiting.extend(entry for entry in _within(value) if type(entry) not in _PLAIN)
    return list(found.values())


@contextmanager
def unmoved(generators: Iterable[Any], seed: int | None = None) -> Iterator[None]:
    """Put generators back afterwards; with a ``seed`` they start at it."""
    found = list(generators)
    backs = list(map(putting_back, found))  # all of them before any starts anew: some may share their state
    try:
        if seed is not None:
            for generator in found:
                start_at(generator, seed)
        yield
    finally:
        for back in backs:
            back()


def _within(value: Any) -> Iterable[Any]:
    """What an object holds; nothing of a user's is called for it, no property, ``__getattr__`` or ``__iter__``."""
    kind = type(value)
    if issubclass(kind, _CODE):
        return _of_code(value)
    if issubclass(kind, type):
        return vars(value).values() if of_user(value.__module__) else ()
    if kind in ATOMIC or issubclass(kind, (Tensor, *_OF_PROGRAMS)):
        return ()
    if str(kind.__module__).startswith(LIGHTNING) and not issubclass(kind, (Dataset, Sampler)):  # these wrap a user's
        return ()
    inside = _entries(value)
    attributes = _attributes(value)
    inside.extend(entry for name, entry in attributes.items() if name not in INTERNAL)
    if issubclass(kind, nn.Module):
        inside.extend(dict(attributes.get("_modules", {})).values())
    for each in kind.__mro__:
        inside.extend(_of_slots(value, each))
        if of_user(each.__module__):
            inside.extend(vars(each).values())
    return inside


def _entries(value: Any) -> list[Any]:
    """What a container holds: all, or of a long one the generators that it holds and the first entries."""
    base: Any = next((base for base in _CONTAINERS if issubclass(type(value), base)), None)
    if base is None:
        return []
    entries = dict.values(value) if base is dict else base.__iter__(value)
    if base.__len__(value) <= _MANY:
        return list(entries)
    first = list(islice(entries, _FEW))
    return [*first, *filter(is_generator, entries)] if any(map(is_generator, first)) else first


def _attributes(value: Any) -> dict[str, Any]:
    """An object's own attributes; none where its class makes them up."""
    found = next((vars(kind)["__dict__"] for kind in type(value).__mro__ if "__dict__" in vars(kind)), None)
    attributes = found.__get__(value) if isinstance(found, GetSetDescriptorType) else None
    return dict(attributes) if isinstance(attributes, dict) else {}


def _of_slots(value: Any, kind: type) -> Iterator[Any]:
    """What stands in the slots that a class has given an object."""
    if "__slots__" in vars(kind):
        for slot in vars(kind).values():
            if isinstance(slot, MemberDescriptorType):
                with suppress(AttributeError):  # an empty one
                    yield slot.__get__(value)


def _of_code(code: Any) -> Iterable[Any]:
    """What a function, a method or a partial can reach."""
    if isinstance(code, partial):
        return [code.func, *code.args, *code.keywords.values()]
    if isinstance(code, property):
        return [code.fget]
    if not isinstance(code, FunctionType):
        return [getattr(code, "__self__", None), code.__func__]
    inside = [*(code.__defaults__ or ()), *(code.__kwdefaults__ or {}).values()]
    for cell in code.__closure__ or ():
        with suppress(ValueError):  # not filled yet
            inside.append(cell.cell_contents)
    if of_user(code.__module__):
        names = names_of(code.__code__)
        named = [code.__globals__.get(name) for name in names]
        inside.extend(named)
        for each in named:  # a user's other files, of which the code may name a variable
            if isinstance(each, ModuleType) and of_user(each.__name__):
                inside.extend(vars(each).get(name) for name in names)
    return inside


def names_of(code: CodeType) -> set[str]:
    """The names that code asks for, that of comprehensions within it too."""
    return {*code.co_names, *(name for part in code.co_consts if isinstance(part, CodeType) for name in names_of(part))}
