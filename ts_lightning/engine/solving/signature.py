"""A few numbers by which gradients are known again, also where a change moved no version of theirs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_ROUNDING = 1e-3  # of the largest number, up to which gradients are a multiple of earlier ones


class Signature:
    """The norms and the sums of the gradients of some parameters, at one moment.

    Args:
        parameters: these.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters
        self._taken: list[float] | None = None

    @property
    def taken(self) -> bool:
        """Whether there is one."""
        return self._taken is not None

    def take(self, numbers: list[float]) -> None:
        """Take the present :meth:`numbers`, as they were read."""
        self._taken = numbers

    def drop(self) -> None:
        """Forget it."""
        self._taken = None

    def changed(self) -> bool:
        """Whether gradients are others than when it was taken."""
        return self._taken is not None and self._taken != self.numbers().tolist()

    def factor(self) -> float | None:
        """By what all gradients were multiplied since it was taken; None where by no one number."""
        before, now = self._taken or [], self.numbers().tolist()
        norms = len(now) // 2
        if not now or len(before) != len(now) or sum(before[:norms]) == 0:
            return None
        factor, scale = sum(now[:norms]) / sum(before[:norms]), max(map(abs, now))
        pairs = zip(before, now, strict=True)
        return factor if all(abs(b - factor * a) <= _ROUNDING * scale for a, b in pairs) else None

    def numbers(self) -> Tensor:
        """The norms, then the sums, of the gradients as they are."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        if not gradients:
            return torch.empty(0)
        numbers = [*torch._foreach_norm(gradients), *(gradient.sum(dtype=torch.float32) for gradient in gradients)]
        together = torch.stack([number.to(gradients[0].device, torch.float32) for number in numbers])
        return together.nan_to_num(nan=-12345.0)  # since NaN differs from itself
