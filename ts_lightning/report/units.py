"""Numbers as a reader wants them: in a unit that suits their size, and with their spread over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """How numbers of one size are written.

    Attributes:
        factor: what they are multiplied by.
        pattern: of the number, as ``format`` takes it.
        unit: behind the number.
    """

    factor: float
    pattern: str
    unit: str = ""

    def __call__(self, *values: float) -> str:
        """The numbers, joined by ±, and their unit."""
        return " ± ".join(format(self.factor * value, self.pattern) for value in values) + self.unit


def plain(value: float) -> Scale:
    """A metric: four decimals, or as many digits where these would not show it."""
    return Scale(1, ".4f" if value == 0 or 0.001 <= abs(value) < 10_000 else ".4g")


def counted(value: float) -> Scale:
    """A count."""
    return Scale(1, ",.0f")


def duration(seconds: float) -> Scale:
    """A time."""
    if seconds < 1e-3:
        return Scale(1e6, ".0f", " µs")
    if seconds < 1:
        return Scale(1e3, ".1f" if seconds < 0.1 else ".0f", " ms")
    if seconds < 120:
        return Scale(1, ".2f" if seconds < 10 else ".1f", " s")
    return Scale(1 / 60, ".1f", " min") if seconds < 7200 else Scale(1 / 3600, ".1f", " h")


def memory(size: float) -> Scale:
    """A number of bytes."""
    return Scale(2**-20, ",.0f", " MiB") if size < 2**30 else Scale(2**-30, ",.2f", " GiB")


@dataclass(frozen=True)
class Spread:
    """A number's mean and spread over seeds.

    Attributes:
        mean: over the seeds.
        deviation: the standard deviation between seeds (with n - 1); ``None`` for one seed.
        count: of seeds.
    """

    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """The spread of at least one value; ``None`` without any."""
        if not values:
            return None
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), deviation, len(values))

    def text(self, scale: Scale) -> str:
        """Mean ± deviation."""
        return scale(self.mean) if self.deviation is None else scale(self.mean, self.deviation)
