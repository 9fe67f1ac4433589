"""The same random numbers in every run of a forward, and none drawn from the user's."""

from __future__ import annotations

import pickle
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch


class _Generator(NamedTuple):
    """How a global generator outside of torch is read, written and seeded."""

    get: Callable[[], Any]
    put: Callable[[Any], None]
    seed: Callable[[int], None]


class SameRandomNumbers:
    """Starts all generators of a run at a seed, and leaves them as they were found.

    Those of ``random`` and NumPy are slow to seed beside a small network's forward. They are watched in the first
    run, and from then on only if it drew from them.

    Args:
        seed: where every run's random numbers start.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._drawn: list[_Generator] | None = None

    @contextmanager
    def __call__(self, device: torch.device) -> Iterator[None]:
        """For one run, which draws from the generators of the CPU and of ``device``."""
        cuda = [device.index] if device.type == "cuda" else []
        watched = _others() if self._drawn is None else self._drawn
        found = [generator.get() for generator in watched]
        with torch.random.fork_rng(cuda):
            torch.default_generator.manual_seed(self.seed)
            for index in cuda:
                torch.cuda.default_generators[index].manual_seed(self.seed)
            for generator in watched:
                generator.seed(self.seed)
            before = [pickle.dumps(generator.get()) for generator in watched] if self._drawn is None else []
            try:
                yield
                if self._drawn is None:
                    pairs = zip(watched, before, strict=True)
                    self._drawn = [generator for generator, state in pairs if pickle.dumps(generator.get()) != state]
            finally:
                for generator, state in zip(watched, found, strict=True):
                    generator.put(state)


def _others() -> list[_Generator]:
    """The global generators outside of torch, of what is imported."""
    found = [_Generator(random.getstate, random.setstate, random.seed)]
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:
        own = numpy.random
        found.append(_Generator(own.get_state, own.set_state, lambda seed: own.seed(seed % 2**32)))
    return found
