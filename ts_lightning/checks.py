"""Checks of settings, which raise TypeError or ValueError and say what was found and what was expected."""

from __future__ import annotations

import math
from typing import Any


def check_choice(name: str, value: object, choices: tuple[Any, ...]) -> None:
    """Raise ValueError if ``value`` is not one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name}={value!r}: expected one of {', '.join(map(repr, choices))}.")


def check_finite(name: str, value: float) -> None:
    """Raise TypeError or ValueError if ``value`` is not a finite number."""
    _check_number(name, value)
    if not math.isfinite(value):
        raise ValueError(f"{name}={value!r}: expected a finite number.")


def check_positive(name: str, value: float) -> None:
    """Raise TypeError or ValueError if ``value`` is not a finite number above 0."""
    _check_number(name, value)
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name}={value!r}: expected a finite number above 0.")


def _check_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}={value!r}: expected a number, found {type(value).__name__}.")


def check_count(name: str, value: object) -> None:
    """Raise TypeError or ValueError if ``value`` is not a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}={value!r}: expected a whole number, found {type(value).__name__}.")
    if value < 1:
        raise ValueError(f"{name}={value!r}: expected at least 1.")
