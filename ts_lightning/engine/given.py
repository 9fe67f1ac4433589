"""What others have made of gradients since a pull-back gave them: nothing, a multiple, none at all, or something else.

Clipping by the norm and a loop's own zeroing multiply the gradients of targets, and in weight space would multiply
those of the weights. So whatever is pulled back anew, since weights' gradients changed or more arrived, has to follow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ts_lightning.engine.target import Target

_ROUNDING = 1e-3  # of the largest number of a multiple


@dataclass
class _Given:
    """A parameter's gradient behind a pull-back.

    Attributes:
        parameter: whose it is.
        gradient: the tensor.
        version: its version then.
        share: what the pull-back has added to it, which may be the gradient itself.
        sizes: its norm and its largest number then; None where nobody could change it before a step.
    """

    parameter: nn.Parameter
    gradient: Tensor
    version: int
    share: Tensor
    sizes: tuple[float, float] | None = None

    def factor(self) -> float | None:
        """By what the gradient was multiplied since, 0 where it is gone; None where it was changed in another way."""
        present = stored(self.parameter)
        if present is None:
            return 0.0
        if present is self.gradient and present._version == self.version:
            return 1.0
        norm, largest = _sizes([present])[0]
        if norm == 0:
            return 0.0
        if self.sizes is None or self.sizes[0] == 0:
            return 1.0
        factor = norm / self.sizes[0]
        return factor if abs(largest - factor * self.sizes[1]) <= _ROUNDING * largest else None


class GivenGradients:
    """The gradients that pull-backs gave since the weights' were cleared."""

    def __init__(self) -> None:
        self._of: dict[int, _Given] = {}

    def clear(self) -> None:
        """Forget them."""
        self._of.clear()

    def note(self, parameter: nn.Parameter, gradient: Tensor, share: Tensor) -> None:
        """Take note of one: the tensor that a parameter has, and what of it is pulled back."""
        self._of[id(parameter)] = _Given(parameter, gradient, gradient._version, share)

    def measure(self) -> None:
        """Take note of the sizes of all, as they are, since there is time to change them before a step."""
        dense = [one for one in self._of.values() if one.gradient.layout == torch.strided]
        for one, sizes in zip(dense, _sizes([one.gradient for one in dense]), strict=True):
            one.version, one.sizes = one.gradient._version, sizes

    def share(self, parameter: nn.Parameter) -> Tensor | None:
        """What was pulled back of a parameter's gradient."""
        given = self._of.get(id(parameter))
        return None if given is None else given.share

    def whole(self, parameter: nn.Parameter) -> bool:
        """Whether that was all of it."""
        given = self._of.get(id(parameter))
        return given is not None and given.share is given.gradient

    def forget(self, parameter: nn.Parameter) -> None:
        """Forget one, which is taken back."""
        self._of.pop(id(parameter), None)

    def factor(self, parameter: nn.Parameter) -> float | None:
        """By what a parameter's gradient was multiplied since; None where it was changed in another way."""
        given = self._of.get(id(parameter))
        return 1.0 if given is None else given.factor()

    def multiplied(self) -> Iterator[tuple[nn.Parameter, Tensor, float]]:
        """The parameters whose gradients were multiplied, with what was pulled back of these and the factor."""
        for one in self._of.values():
            factor = one.factor()
            if factor is not None and factor != 1.0:
                yield one.parameter, one.share, factor


def stored(parameter: nn.Parameter) -> Tensor | None:
    """The gradient as it stands; that of a target without pulling back."""
    return parameter.stored_grad if isinstance(parameter, Target) else parameter.grad


def _sizes(gradients: Sequence[Tensor]) -> list[tuple[float, float]]:
    """The norm and the largest number of each, (0, 0) of one without entries."""
    full = [gradient.detach() for gradient in gradients if gradient.numel()]
    if not full:
        return [(0.0, 0.0)] * len(gradients)
    numbers = [*torch._foreach_norm(full), *torch._foreach_norm(full, torch.inf)]
    together = torch.stack([number.to(full[0].device, torch.float64) for number in numbers]).view(2, -1).T.tolist()
    found = iter([(norm, largest) for norm, largest in together])
    return [next(found) if gradient.numel() else (0.0, 0.0) for gradient in gradients]
