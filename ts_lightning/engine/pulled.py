"""What of the weights' gradients has been pulled back to the targets, and what arrived or changed since.

The state is kept on the gradients themselves, as attributes of these tensors, so that it goes when they are cleared.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ts_lightning.engine.given import GivenGradients, stored
from ts_lightning.engine.signature import Signature
from ts_lightning.engine.target import Target
from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers.base import TargetLayer

_PULLED = "_ts_lightning_pulled"  # on a weight's gradient: its version when it was pulled back
_SHARE = "_ts_lightning_share"  # on a trained parameter's gradient: what a pull-back added to it
_STEPPED = "_ts_lightning_stepped"  # on a weight's gradient: its version when the optimizer of its targets made a step
_USED = "_ts_lightning_used"  # on a target's gradient: its version when an optimizer of one's own loop stepped with it
_PILED = "_ts_lightning_piled"  # likewise: its version when more was added to it behind that step
_OF = "_ts_lightning_of"  # beside it: since which clearing of the weights' gradients


class Pulled:
    """The state of the pull-back.

    Args:
        layers: whose weights are solved.
        pull: pulls back what is on the weights.

    Attributes:
        settled: whether an optimizer is at work with the gradients as they are, so that reading one pulls nothing.
        several: whether several optimizers step, so that behind one's step there is time to change the others'.
        hears: whether every backward pass is announced by :meth:`arrive`.
        weights_of: the weights that are solved from a target, by its id.
    """

    def __init__(self, layers: Sequence[TargetLayer], pull: Callable[[], object]) -> None:
        self.settled = self.several = self.hears = False
        self.weights_of: dict[int, Sequence[nn.Parameter]] = {}
        self._given = GivenGradients()
        self._weights = [p for layer in layers for p in layer.parameters]
        self._pull = pull
        self._count = 0  # gradients on weights at the last pull-back
        self._signature = Signature(self._weights)  # where there is time to change them before a step
        self._stepped: dict[int, list[nn.Parameter]] = {}  # weights by whose targets' optimizer has made a step
        self._spent: dict[int, list[nn.Parameter]] = {}  # those behind which there was a backward pass
        self._round = 0  # clearings of the weights' gradients
        self._said_piled = self._said_changed = False

    def pull_pending(self, *, stepping: bool = False) -> bool:
        """Pull back if a gradient arrived, changed or went; whether it did.

        Args:
            stepping: whether an optimizer's step follows at once. Then changes that no version tells are looked for,
                as those through ``grad.data``, since a pull-back that came before.
        """
        if self.settled:
            return False
        if not (stepping and self._signature.changed()) and not self.pending():
            return False
        self.settled = True  # while the pull-back itself reads gradients
        try:
            self._pull()
        finally:
            self.settled = False
        if stepping and not self.several:
            self._signature.drop()
        else:
            self._signature.take()
            self._given.measure()
        return True

    def step(self, optimizer: int, weights: Sequence[nn.Parameter]) -> None:
        """Note that an optimizer has made its step for the gradients on these weights.

        Until they change they count for no other's targets behind another backward pass: in weight space it would not
        read them either.
        """
        self._spent.pop(optimizer, None)
        self._stepped[optimizer] = used = [p for p in weights if p.grad is not None]
        for parameter in used:
            gradient: Any = parameter.grad
            setattr(gradient, _STEPPED, gradient._version)

    def arrive(self) -> None:
        """Note that a backward pass is at hand behind all steps so far.

        What others have made of the targets' gradients, as a loop that clears them one by one, holds for those of
        their weights from here on, to which the pass adds.
        """
        for parameter, share, factor in list(self._given.multiplied()):
            weights = self.weights_of.get(id(parameter))
            if weights is None:
                share.mul_(factor)
            elif factor == 0:
                self.clear(weights)
            else:
                self.multiply(factor, weights)
        self._given.clear()
        self._spent.update(self._stepped)
        self._stepped.clear()

    def spent(self) -> list[nn.Parameter]:
        """The weights with gradients as they were at their optimizer's step, behind which there was a backward pass."""
        found: list[nn.Parameter] = []
        for weights in self._spent.values():
            gradients: list[Any] = [p.grad for p in weights if p.grad is not None]
            if all(getattr(gradient, _STEPPED, None) == gradient._version for gradient in gradients):
                found += [p for p in weights if p.grad is not None]
        return found

    def found(self) -> bool:
        """Whether there is a gradient on any weight."""
        return any(p.grad is not None for p in self._weights)

    def arrived(self) -> bool:
        """Whether a weight holds a gradient, or more of one, that has not been pulled back."""
        gradients: list[Any] = [p.grad for p in self._weights if p.grad is not None]
        return any(getattr(gradient, _PULLED, None) != gradient._version for gradient in gradients)

    def use(self, targets: Iterable[Target]) -> None:
        """Note that an optimizer steps with the targets' gradients as they are."""
        for target in targets:
            gradient: Any = target.stored_grad
            if gradient is not None:
                if getattr(gradient, _PILED, None) == gradient._version:
                    self._say_piled()
                setattr(gradient, _USED, gradient._version)

    def pending(self) -> bool:
        """Whether a weight's gradient arrived, changed or went since the last pull-back."""
        count = 0
        for parameter in self._weights:
            gradient = parameter.grad
            if gradient is not None:
                count += 1
                if getattr(gradient, _PULLED, None) != gradient._version:
                    return True
        return count != self._count

    @contextmanager
    def without(self, weights: Sequence[nn.Parameter]) -> Iterator[None]:
        """Take the gradients of these weights away for a while."""
        kept = [parameter.grad for parameter in weights]
        for parameter in weights:
            parameter.grad = None
        try:
            yield
        finally:
            for parameter, gradient in zip(weights, kept, strict=True):
                parameter.grad = gradient

    def check(self) -> None:
        """Raise TargetSpaceError if a gradient has a graph of its own, through which second derivatives would go."""
        if any(p.grad is not None and p.grad.requires_grad for p in self._weights):
            raise TargetSpaceError(
                "The weights' gradients were made with create_graph=True, for second derivatives, which are not "
                "available through the solve. Call backward() without it, or train in weight space: target_space=None."
            )

    def settle(self) -> None:
        """Take the weights' gradients, as they are, for those that were pulled back."""
        self._count = 0
        for parameter in self._weights:
            if parameter.grad is not None:
                setattr(parameter.grad, _PULLED, parameter.grad._version)
                self._count += 1

    @torch.no_grad()
    def multiply(self, factor: float, weights: Sequence[nn.Parameter]) -> None:
        """Multiply the gradients of weights, which stay pulled back: those of their targets were multiplied, too."""
        for parameter in weights:
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
                setattr(parameter.grad, _PULLED, parameter.grad._version)
        if self._signature.taken:
            self._signature.take()
            self._given.measure()

    def clear(self, weights: Sequence[nn.Parameter] | None = None) -> None:
        """Clear the gradients on these weights, or on all; what was pulled back of them stays where it is."""
        for parameter in self._weights if weights is None else weights:
            parameter.grad = None
        if weights is None:
            self._count = 0
            self._signature.drop()
            self._given.clear()
            self._round += 1

    @torch.no_grad()
    def withdraw(self, parameters: Iterable[nn.Parameter]) -> dict[int, float | None]:
        """Take back what was pulled back since the last clearing, of gradients that have changed or gone since.

        Returns:
            By the parameters' ids what their gradients were multiplied with since, so that what is pulled back anew
            has to be; None for one that was changed in another way, and stays as it is.
        """
        factors: dict[int, float | None] = {}
        for parameter in parameters:
            gradient: Any = stored(parameter)
            share, factor = getattr(gradient, _SHARE, None), 1.0
            if self.hears:
                made = self._given.factor(parameter)
                factors[id(parameter)] = None if gradient is None and made == 0 else made
                if made is None:
                    self._say_changed()
                    continue
                factor = made
                if factor != 1.0 and not isinstance(parameter, Target):
                    # what arrives anew is a multiple by itself where the weights' gradients were multiplied, too
                    factors[id(parameter)] = factor / (self._signature.factor() or factor or 1.0)
                share = self._given.share(parameter) if share is None and gradient is not None else share
            if share is None or getattr(gradient, _OF, self._round) != self._round:
                continue
            if share is gradient or self._given.whole(parameter):
                parameter.grad = None
            else:
                if hasattr(gradient, _SHARE):
                    delattr(gradient, _SHARE)
                dense = gradient.layout == torch.strided
                parameter.grad = gradient.sub_(share, alpha=factor) if dense else gradient - factor * share
            self._given.forget(parameter)
        return factors

    @torch.no_grad()
    def give(self, trained: Sequence[nn.Parameter], gradients: Sequence[Tensor | None], keep: bool) -> None:
        """Add gradients where they belong.

        Args:
            trained: the parameters.
            gradients: theirs.
            keep: the weights' gradients stay on them; in the place of what was pulled back of these before.
        """
        factors = self.withdraw(trained) if keep else {}
        taken: set[int] = set()
        for parameter, gradient in zip(trained, gradients, strict=True):
            factor = factors.get(id(parameter), 1.0)
            if gradient is None or factor is None:
                continue
            gradient = gradient if factor == 1.0 else gradient * factor
            dense = gradient.layout == torch.strided
            # as autograd lays it out; a copy too of one that it gives to two parameters
            if dense and (gradient.stride() != parameter.stride() or gradient.data_ptr() in taken):
                gradient = torch.empty_like(parameter).copy_(gradient)
            if dense:
                taken.add(gradient.data_ptr())
            present = stored(parameter)
            marks = (getattr(present, _USED, None), getattr(present, _PILED, None))
            used = not keep and present is not None and present._version in marks
            if present is None:
                parameter.grad = found = gradient
            elif dense and present.layout == torch.strided:
                found = present.add_(gradient)
            else:
                parameter.grad = found = present + gradient
            if used:
                setattr(found, _PILED, found._version)
            if keep:
                setattr(found, _SHARE, gradient)
                setattr(found, _OF, self._round)
                self._given.note(parameter, found, gradient)
        if keep:
            self.settle()

    def _say_piled(self) -> None:
        if not self._said_piled:
            self._said_piled = True
            warnings.warn(
                "The targets' gradients were not cleared since the last step, and what is pulled back is added to "
                "them. Call zero_grad() of the optimizer: the model's own clears the gradients on the weights alone.",
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
