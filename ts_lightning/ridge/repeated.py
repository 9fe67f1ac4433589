"""The factor of a layer whose inputs on the reference batch are the same in every solve, as the first layer's are.

Its system does not change then, and one factorisation serves all solves, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ts_lightning.ridge.factor import Factor


class Repeated:
    """A copy of the last inputs, and their factor, until inputs change; behind a change nothing is held any more."""

    def __init__(self) -> None:
        self._inputs: Tensor | None = None
        self._ridge = 0.0
        self._factor: Factor | None = None
        self._changes = False

    def factor(self, inputs: Tensor, shaped: bool, ridge: float, factorise: Callable[[], Factor]) -> Factor:
        """The last factor where the inputs are the same, or else a new one.

        Args:
            inputs: A, or what A is made of.
            shaped: whether something that is trained has shaped them, so that they are about to change.
            ridge: of the system.
            factorise: makes a factor.
        """
        if self._factor is not None and not shaped and ridge == self._ridge:
            if self._same(inputs):
                return self._factor
            self._changes = True
        self._inputs = self._factor = None
        factor = factorise()
        if shaped or self._changes:
            return factor
        # a copy, since a layer may be given a parameter or another tensor that is written to in place
        self._inputs, self._ridge, self._factor = inputs.detach().clone(), ridge, factor
        return factor

    def _same(self, inputs: Tensor) -> bool:
        last = self._inputs
        if last is None or (last.dtype, last.device) != (inputs.dtype, inputs.device):
            return False
        return torch.equal(last, inputs)
