"""Generators of random numbers that objects hold: found, put back, and started at a seed.

Those of PyTorch (``torch.Generator``), of Python (``random.Random``) and of NumPy (``Generator``, ``RandomState``).
They are looked for as deep as code can reach them: in attributes, containers, what functions are bound to or close
over, and the global variables that a user's own functions name.
"""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any
from weakref import ProxyTypes

import torch
from torch import Tensor, nn

from ts_lightning.engine.learned import ATOMIC, INTERNAL
from ts_lightning.engine.libraries import of_user

_FEW = 64  # entries of a container, up to which these are looked into
_MOST = 20_000  # objects that are looked into
_CODE = (FunctionType, MethodType, partial, staticmethod, classmethod, property)
_LIGHTNING = ("lightning.", "pytorch_lightning.")


def is_generator(value: Any) -> bool:
    """Whether a value is a generator of random numbers that can be put back."""
    if isinstance(value, (torch.Generator, random.Random)):
        return not isinstance(value, random.SystemRandom)
    numpy: Any = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, (numpy.random.Generator, numpy.random.RandomState))


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
            waiting.extend(_within(value))
    return list(found.values())


@contextmanager
def unmoved(generators: Iterable[Any], seed: int | None = None) -> Iterator[None]:
    """Put generators back afterwards; with a ``seed`` they start at it."""
    backs = []
    for generator in generators:
        backs.append(putting_back(generator))
        if seed is not None:
            start_at(generator, seed)
    try:
        yield
    finally:
        for back in backs:
            back()


def _within(value: Any) -> Iterable[Any]:
    """What an object holds."""
    if isinstance(value, _CODE):
        return _of_code(value)
    if type(value) in ATOMIC or isinstance(value, (Tensor, type)):
        return ()
    if isinstance(value, dict):
        return list(dict.values(value)) if len(value) <= _FEW else ()
    if isinstance(value, (list, tuple, set, deque)):
        return list(value) if len(value) <= _FEW else ()
    if type(value).__module__.startswith(_LIGHTNING):
        return ()
    inside = [entry for name, entry in getattr(value, "__dict__", {}).items() if name not in INTERNAL]
    if isinstance(value, nn.Module):
        inside.extend(value.children())
    for kind in type(value).__mro__:
        if of_user(kind.__module__):
            inside.extend(vars(kind).values())
    return inside


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
        inside.extend(code.__globals__.get(name) for name in _names(code.__code__))
    return inside


def _names(code: CodeType) -> set[str]:
    """The names that code asks for, that of comprehensions within it too."""
    return {*code.co_names, *(name for part in code.co_consts if isinstance(part, CodeType) for name in _names(part))}
