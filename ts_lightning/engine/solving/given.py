"""What others have made of gradients since a pull-back gave them: nothing, a multiple, none at all, or something else.

Clipping by the norm and a loop's own zeroing multiply the gradients of targets, and in weight space would multiply
those of the weights. So whatever is pulled back anew, since weights' gradients changed or more arrived, has to follow.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ts_lightning.engine.solving.signature import Signature
from ts_lightning.engine.targets.target import Target
from ts_lightning.layers.part import wholes_of

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
        settled: whether a backward pass followed, ahead of which the weights' gradients were multiplied in its place.
    """

    parameter: nn.Parameter
    gradient: Tensor
    version: int
    share: Tensor
    sizes: tuple[float, float] | None = None
    settled: bool = False

    def factor(self) -> float | None:
        """By what the gradient was multiplied since, 0 where it is gone; None where it was changed in another way."""
        if self.settled:
            return 1.0
        present = stored(self.parameter)
        if present is None:
            return 0.0
        if present is self.gradient and present._version == self.version:
            return 1.0
        norm, largest = _sizes([present]).tolist()
        if norm == 0:
            return 0.0
        if self.sizes is None or self.sizes[0] == 0:
            return 1.0
        factor = norm / self.sizes[0]
        return factor if abs(largest - factor * self.sizes[1]) <= _ROUNDING * largest else None


class GivenGradients:
    """The gradients that pull-backs gave since the weights' were cleared.

    Args:
        weights: all that are solved.

    Attributes:
        hears: whether every backward pass is announced by :meth:`settle`.
        signature: of the gradients on the weights, where there is time to change them before a step.
    """

    def __init__(self, weights: Sequence[nn.Parameter]) -> None:
        self.hears = False
        self.signature = Signature(weights)
        self._weights = wholes_of(weights)
        self._handles: list[Any] = []  # of hooks on the weights
        self._passed = False  # whether a backward pass has reached a weight since the gradients were measured
        self._of: dict[int, _Given] = {}
        self._said_changed = self._said_replaced = False

    def watch(self, watched: bool) -> None:
        """Take note of backward passes that reach the weights, in loops that announce none; or do so no more."""
        if watched and not self._handles:
            me = weakref.ref(self)

            def passing(gradient: Tensor) -> None:
                if (given := me()) is not None:
                    given._passed = True

            trained: list[Any] = [weight for weight in self._weights if weight.requires_grad]
            self._handles = [weight.register_hook(passing) for weight in trained]
        elif not watched:
            for handle in self._handles:
                handle.remove()
            self._handles = []

    def clear(self) -> None:
        """Forget them, and the signature."""
        self._of.clear()
        self.signature.drop()

    def note(self, parameter: nn.Parameter, gradient: Tensor, share: Tensor) -> None:
        """Take note of one: the tensor that a parameter has, and what of it is pulled back."""
        self._of[id(parameter)] = _Given(parameter, gradient, gradient._version, share)

    def measure(self) -> None:
        """Take note of them and of those on the weights, as they are, since there is time to change them before a step.

        One transfer brings all numbers from the device.
        """
        dense = [one for one in self._of.values() if not one.settled and one.gradient.layout == torch.strided]
        weights, sizes = self.signature.numbers(), _sizes([one.gradient for one in dense])
        numbers: list[float] = torch.cat([weights.double(), sizes.to(weights.device)]).tolist()
        self.signature.take(numbers[: len(weights)])
        self._passed = False
        found = iter(numbers[len(weights) :])
        for one, norm, largest in zip(dense, found, found, strict=True):
            one.version, one.sizes = one.gradient._version, (norm, largest)

    @torch.no_grad()
    def unscale(self, factor: float, parameters: Collection[int]) -> None:
        """Take note that the gradients of parameters, by their ids, are about to be multiplied, as the weights'."""
        for key in self._of.keys() & set(parameters):
            one = self._of[key]
            if one.share is not one.gradient:
                one.share.mul_(factor)
            if one.sizes is not None:
                one.sizes = one.sizes[0] * factor, one.sizes[1] * factor

    @torch.no_grad()
    def settle(self, waits: Callable[[nn.Parameter], bool]) -> list[tuple[nn.Parameter, float]]:
        """Take them as they are, since a backward pass is at hand, which may add to them.

        Args:
            waits: whether a target's weights hold gradients for a step that is still to come.

        Returns:
            The parameters whose gradients were multiplied, and by what: the weights' have to follow.
        """
        multiplied = []
        for one in self._of.values():
            if one.settled:
                continue
            factor, present = one.factor(), stored(one.parameter)
            replaced = factor is None and isinstance(one.parameter, Target)
            if replaced and waits(one.parameter):
                self._say_replaced()
            if present is not None:
                if replaced or one.share is one.gradient:  # all of a target's gradient is pulled back
                    one.share = present.clone()  # without what the pass adds
                elif factor is not None:
                    one.share.mul_(factor)
                one.gradient = present
            if factor is not None and factor != 1.0:
                multiplied.append((one.parameter, factor))
            one.settled = True
        return multiplied

    @torch.no_grad()
    def withdraw(self, parameters: Iterable[nn.Parameter]) -> dict[int, float | None]:
        """Take back what was pulled back since the last clearing, of gradients that have changed or gone since.

        Returns:
            By the parameters' ids what their gradients were multiplied with since, so that what is pulled back anew
            has to be; None for one that was changed in another way, and stays as it is.
        """
        factors: dict[int, float | None] = {}
        hears = self.hears or (bool(self._handles) and self.signature.taken and not self._passed)
        clipped = None if hears or not self.signature.taken else self.signature.factor()
        for parameter in parameters:
            given, gradient = self._of.get(id(parameter)), stored(parameter)
            if given is None:
                continue
            factor = given.factor() if hears else _clipped_with(parameter, given, clipped)
            factors[id(parameter)] = None if gradient is None and factor == 0 else factor
            if factor is None:
                self._say_changed()
                continue
            if factor != 1.0 and not isinstance(parameter, Target):
                # what arrives anew is a multiple by itself where the weights' gradients were multiplied, too
                factors[id(parameter)] = factor / (self.signature.factor() or factor or 1.0) if hears else 1.0
            # one in the place of the tensor that was given holds a multiple of the share, too, if the factor is known
            holds = gradient is given.gradient or ((hears or factor != 1.0) and not given.settled)
            if gradient is None or not holds:
                continue
            if given.share is given.gradient:
                _take(parameter)
            elif gradient.layout == torch.strided:
                parameter.grad = gradient.sub_(given.share, alpha=factor)
            else:
                parameter.grad = gradient - factor * given.share
            del self._of[id(parameter)]
        return factors

    def _say_replaced(self) -> None:
        if not self._said_replaced:
            self._said_replaced = True
            warnings.warn(
                "The targets' gradients were changed, other than by a factor, ahead of another backward pass, which "
                "replaces them by those of all passes. Change them behind the last one, or change the weights'.",
                stacklevel=6,
            )

    def _say_changed(self) -> None:
        if not self._said_changed:
            self._said_changed = True
            warnings.warn(
                "Gradients on solved weights were changed after those of what is trained, which are left as they are. "
                "Change the weights' first, or only one of the two.",
                stacklevel=6,
            )


def _clipped_with(parameter: nn.Parameter, given: _Given, factor: float | None) -> float:
    """The factor of all weights' gradients, where that of another parameter was multiplied by it, too; otherwise 1.

    Nobody says whether a backward pass came since: that would not multiply all by one number.
    """
    if factor is None or isinstance(parameter, Target):
        return 1.0
    found = given.factor()
    return 1.0 if found is None or abs(found - factor) > _ROUNDING * factor else found


def stored(parameter: nn.Parameter) -> Tensor | None:
    """The gradient as it stands; that of a target without pulling back."""
    return parameter.stored_grad if isinstance(parameter, Target) else parameter.grad


def _take(parameter: nn.Parameter) -> None:
    """Take a gradient away; with that of a target none of the weights'."""
    if isinstance(parameter, Target):
        parameter.take_grad()
    else:
        parameter.grad = None


def _sizes(gradients: Sequence[Tensor]) -> Tensor:
    """The norm and the largest number of the first, of the second, and so on; 0 and 0 of one without entries."""
    if not gradients:
        return torch.empty(0)
    full = [gradient.detach() if gradient.numel() else gradient.new_zeros(1) for gradient in gradients]
    norms, largest = torch._foreach_norm(full), torch._foreach_norm(full, torch.inf)
    numbers = [number for pair in zip(norms, largest, strict=True) for number in pair]
    return torch.stack([number.to(full[0].device, torch.float64) for number in numbers])
