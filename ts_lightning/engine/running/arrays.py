"""NumPy arrays that a run writes to get their values back."""

from __future__ import annotations

import sys
from typing import Any

from ts_lightning.engine.running.written import LARGE


def is_array(value: Any) -> bool:
    """Whether a value is an array that is put back: one that can be written to, and is not large."""
    numpy: Any = sys.modules.get("numpy")
    return (
        numpy is not None and isinstance(value, numpy.ndarray) and value.nbytes <= LARGE and bool(value.flags.writeable)
    )


class Arrays:
    """The arrays of one run, with copies of them.

    Args:
        starts: by id the arrays that earlier runs wrote to, each with the values that it had before the first; added
            to. Every run begins with these.
    """

    def __init__(self, starts: dict[int, tuple[Any, Any]]) -> None:
        self._starts = starts
        self._held: list[tuple[Any, Any]] = []

    def add(self, array: Any) -> None:
        """Record an array."""
        self._held.append((array, array.copy()))

    def start(self) -> None:
        """Let those begin anew that runs write to."""
        for array, _ in self._held:
            if id(array) in self._starts:
                array[...] = self._starts[id(array)][1]

    def learn(self) -> None:
        """Note which of them this run wrote to."""
        for array, values in self._held:
            if id(array) not in self._starts and array.tobytes() != values.tobytes():  # which NaN equals NaN in
                self._starts[id(array)] = array, values

    def restore(self) -> None:
        """Put the values back."""
        for array, values in self._held:
            array[...] = values
