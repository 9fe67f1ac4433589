"""Checks of settings, which raise TypeError or ValueError and say what was found and what was expected.

Each returns the setting in a built-in type. So numbers of NumPy, 0-d tensors and fractions are numbers like any other,
and a checkpoint that holds them can be read without pickles.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from numbers import Number
from typing import Any


def built_in(value: Any) -> Any:
    """A single number, word or truth value, in Python's own type; anything else as it is.

    A tensor that requires a gradient is none: as a number it would get no gradient.
    """
    if getattr(value, "ndim", None) == 0 and not getattr(value, "requires_grad", False):
        return value.item()
    if isinstance(value, str):
        return str.__str__(value)  # of a member of an enumeration its value, and not its name
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    return float(value) if isinstance(value, Number) and hasattr(value, "__float__") else value


def check_choice(name: str, value: object, choices: tuple[Any, ...]) -> Any:
    """The one of ``choices`` that ``value`` is; raise ValueError if it is none of them."""
    found = built_in(value)
    if isinstance(found, (str, int, float)):
        for choice in choices:
            if choice == found:
                return choice
    raise ValueError(f"{name}={value!r}: expected one of {', '.join(map(repr, choices))}.")


def check_finite(name: str, value: object) -> float:
    """The number; raise TypeError or ValueError if ``value`` is not a finite one."""
    number = _number(name, value)
    if not _finite(number):
        raise ValueError(f"{name}={value!r}: expected a finite number.")
    return number


def check_positive(name: str, value: object, *others: str | None) -> Any:
    """The number, or the one of ``others`` that stands in its place.

    Raises:
        TypeError: ``value`` is neither.
        ValueError: it is not a finite number above 0.
    """
    if _among(value, others):
        return built_in(value)
    number = _number(name, value)
    if not (_finite(number) and number > 0):
        raise ValueError(f"{name}={value!r}: expected a finite number above 0.")
    return number


def check_count(name: str, value: object, *others: str | None) -> Any:
    """The whole number, or the one of ``others`` that stands in its place.

    Raises:
        TypeError: ``value`` is neither.
        ValueError: it is below 1.
    """
    if _among(value, others):
        return built_in(value)
    count = built_in(value)
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"{name}={value!r}: expected a whole number, found {type(value).__name__}.")
    if count < 1:
        raise ValueError(f"{name}={value!r}: expected at least 1.")
    return count


def check_patterns(name: str, value: object) -> tuple[str, ...]:
    """The names or globs; raise TypeError if ``value`` is no list of them, but one string, for example."""
    listed = value if isinstance(value, Collection) and not isinstance(value, str) else None
    if listed is not None and all(isinstance(pattern, str) for pattern in listed):
        return tuple(map(built_in, listed))
    example = value if isinstance(value, str) else "encoder.*"
    raise TypeError(f"{name}={value!r}: expected a list of names or globs, as in [{example!r}].")


def _among(value: object, others: tuple[str | None, ...]) -> bool:
    return (value is None or isinstance(value, str)) and value in others


def _number(name: str, value: object) -> float:
    number = built_in(value)
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise TypeError(f"{name}={value!r}: expected a number, found {type(value).__name__}.")
    return number


def _finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number beyond every float
        return False
