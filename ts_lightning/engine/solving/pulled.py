"""What of the weights' gradients has been pulled back to the targets, and what arrived or changed since.

The state is kept on the gradients themselves (``marks.py``), so that it goes when they are cleared.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ts_lightning.engine.solving.given import GivenGradients, stored
from ts_lightning.engine.solving.marks import is_as_marked, mark
from ts_lightning.engine.solving.signature import Signature
from ts_lightning.engine.targets.target import READ, Target
from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers.base import TargetLayer
from ts_lightning.layers.part import wholes_of

_PULLED = "_ts_lightning_pulled"  # on a weight's gradient: its version when it was pulled back
_STEPPED = "_ts_lightning_stepped"  # on a weight's gradient: its version when the optimizer of its targets made a step
_USED = "_ts_lightning_used"  # on a target's gradient: its version when an optimizer of one's own loop stepped with it
_GIVEN = "_ts_lightning_given"  # on a gradient: its version behind the last pull-back in a loop of one's own
_PILED = "_ts_lightning_piled"  # likewise: its version when more was added to it behind that step


class Pulled:
    """The state of the pull-back.

    Args:
        layers: whose weights are solved.
        pull: pulls back what is on the weights.

    Attributes:
        settled: whether an optimizer is at work with the gradients as they are, so that reading one pulls nothing.
        times: how many pull-backs there were that left the weights' gradients on them.
        several: whether several optimizers step, so that behind one's step there is time to change the others'.
        weights_of: the weights that are solved from a target, by its id.
        given: what pull-backs that leave the weights' gradients on them gave.
    """

    def __init__(self, layers: Sequence[TargetLayer], pull: Callable[[], object]) -> None:
        self.settled = self.several = False
        self.times = 0
        self.weights_of: dict[int, Sequence[nn.Parameter]] = {}
        self._weights = [p for layer in layers for p in layer.parameters]
        self._wholes = wholes_of(self._weights)
        self.given = GivenGradients(self._weights)
        self._pull = pull
        self._count = 0  # gradients on weights at the last pull-back
        self._stepped: dict[int, list[nn.Parameter]] = {}  # weights by whose targets' optimizer has made a step
        self._spent: dict[int, list[nn.Parameter]] = {}  # those behind which there was a backward pass
        self._said_piled = self._said_early = self._said_apart = False
        self._at_work: Signature | None = None  # of the gradients that a step began with, until it reads the first one

    def pull_pending(self, *, stepping: bool = False) -> bool:
        """Pull back if a gradient arrived, changed or went; whether it did.

        Args:
            stepping: whether an optimizer's step follows at once. Then changes that no version tells are looked for,
                as those through ``grad.data``, since a pull-back that came before.
        """
        began, self._at_work = self._at_work, None
        at_work = self.settled
        if at_work:
            if began is None or not began.changed():
                return False
        elif not (stepping and self.given.signature.changed()) and not self.pending():
            return False
        self.settled = True  # while the pull-back itself reads gradients
        try:
            self._pull()
        finally:
            self.settled = at_work
        if stepping and not self.several:
            self.given.signature.drop()
        else:
            self.given.measure()
        return True

    def settle_for(self, optimizer: Optimizer) -> None:
        """Let an optimizer work with the gradients as they are.

        One of the user's may change those of a model's weights first, as K-FAC does, and then call the step of its base
        class. The first gradient that it reads of a target is pulled back from what they have become.
        """
        self.settled = True
        if type(optimizer).__module__.partition(".")[0] not in ("torch", "ts_lightning"):
            self._at_work = Signature(self._weights)
            self._at_work.take(self._at_work.numbers().tolist())

    def step(self, optimizer: int, weights: Sequence[nn.Parameter]) -> None:
        """Note that an optimizer has made its step for the gradients on these weights.

        Until they change they count for no other's targets behind another backward pass: in weight space it would not
        read them either.
        """
        self._spent.pop(optimizer, None)
        self._stepped[optimizer] = used = [p for p in weights if p.grad is not None]
        for parameter in used:
            mark(parameter.grad, _STEPPED)

    def arrive(self) -> None:
        """Note that a backward pass is at hand behind all steps so far.

        What others have made of the targets' gradients, as a loop that clears them one by one, holds for those of
        their weights from here on, to which the pass adds.
        """
        for parameter, factor in self.given.settle(self._waits):
            weights = self.weights_of.get(id(parameter))
            if weights is None:
                continue
            if factor == 0:
                self.clear(weights)
            else:
                self.multiply(factor, weights)
        self._spent.update(self._stepped)
        self._stepped.clear()

    def spent(self) -> list[nn.Parameter]:
        """The weights with gradients as they were at their optimizer's step, behind which there was a backward pass."""
        found: list[nn.Parameter] = []
        for weights in self._spent.values():
            used = [p for p in weights if p.grad is not None]
            if all(is_as_marked(p.grad, _STEPPED) for p in used):
                found += used
        return found

    def gradients(self) -> list[Tensor]:
        """The gradients on the weights."""
        return [p.grad for p in self._weights if p.grad is not None]

    def found(self) -> bool:
        """Whether there is a gradient on any weight."""
        return bool(self.gradients())

    def arrived(self) -> bool:
        """Whether a weight holds a gradient, or more of one, that has not been pulled back."""
        return not all(is_as_marked(gradient, _PULLED) for gradient in self.gradients())

    def pending(self) -> bool:
        """Whether a weight's gradient arrived, changed or went since the last pull-back."""
        count, moved = 0, False
        for parameter in self._weights:  # whenever a target's gradient is read: one look at each
            gradient: Any = parameter.grad
            if gradient is not None:
                version = getattr(gradient, _PULLED, None)
                if version != gradient._version:
                    # of views of a bucket of DistributedDataParallel a write to one moves the version of all
                    if version is None or not gradient._is_view():
                        return True
                    moved = True
                count += 1
        signature = self.given.signature
        if count != self._count or (moved and (not signature.taken or signature.changed())):
            return True
        if moved:
            self.settle()
        return False

    def use(self, targets: Sequence[Target], others: Sequence[nn.Parameter]) -> None:
        """Note that an optimizer steps with the gradients of targets and of other parameters as they are."""
        given = [p.grad for p in others if hasattr(p.grad, _GIVEN)]
        apart = given and not any(is_as_marked(gradient, _GIVEN) for gradient in given)
        if apart and not self._said_apart and all(is_as_marked(t.stored_grad, _GIVEN) for t in targets):
            self._said_apart = True
            warnings.warn(
                "Gradients of what is not solved were changed behind space.pullback(), and those of targets were not. "
                "If that is clipping of model.parameters(), clip space.parameters(): behind the pull-back solved "
                "weights hold no gradients.",
                stacklevel=5,
            )
        for target in targets:
            gradient = target.stored_grad
            if gradient is not None:
                if is_as_marked(gradient, _PILED):
                    self._say_piled()
                mark(gradient, _USED)

    @contextmanager
    def without(self, weights: Sequence[nn.Parameter]) -> Iterator[None]:
        """Take the gradients of these weights away for a while."""
        holding = wholes_of(weights)
        kept = [parameter.grad for parameter in holding]
        for parameter in holding:
            parameter.grad = None
        try:
            yield
        finally:
            for parameter, gradient in zip(holding, kept, strict=True):
                parameter.grad = gradient

    def check(self) -> None:
        """Raise TargetSpaceError if a gradient has a graph of its own, through which second derivatives would go."""
        if any(gradient.requires_grad for gradient in self.gradients()):
            raise TargetSpaceError(
                "The weights' gradients were made with create_graph=True, for second derivatives, which the solve does "
                "not have. Call backward() without it, detach what torch.func gives, or take target_space=None."
            )
        if not self._said_early and any(
            is_as_marked(gradient, READ) and not is_as_marked(gradient, _PULLED) for gradient in self.gradients()
        ):
            self._said_early = True
            warnings.warn(
                "Gradients of targets were read ahead of space.pullback(), which gives them: unscaling and clipping "
                "have left them out. Call pullback() behind the last backward pass, and unscale and clip behind it.",
                stacklevel=5,
            )

    def settle(self) -> None:
        """Take the weights' gradients, as they are, for those that were pulled back."""
        gradients = self.gradients()
        self._count = len(gradients)
        for gradient in gradients:
            mark(gradient, _PULLED)

    @torch.no_grad()
    def multiply(self, factor: float, weights: Sequence[nn.Parameter]) -> None:
        """Multiply the gradients of weights, which stay pulled back: those of their targets were multiplied, too."""
        for parameter in weights:
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
        for parameter in weights:  # behind all, since parts of one have one version
            if parameter.grad is not None:
                mark(parameter.grad, _PULLED)
        if self.given.signature.taken:
            self.given.measure()

    def unscale(self, factor: float, weights: Sequence[nn.Parameter], trained: Collection[int]) -> None:
        """Multiply the gradients of weights, as a scaler is about to multiply those of what is trained, by its ids."""
        self.multiply(factor, weights)
        self.given.unscale(factor, trained)

    def clear(self, weights: Sequence[nn.Parameter] | None = None) -> None:
        """Clear the gradients on these weights, or on all; what was pulled back of them stays where it is."""
        for parameter in self._wholes if weights is None else weights:
            parameter.grad = None
        if weights is None:
            self._count = 0
            self.given.clear()

    @torch.no_grad()
    def give(self, trained: Sequence[nn.Parameter], gradients: Sequence[Tensor | None], keep: bool) -> None:
        """Add gradients where they belong.

        Args:
            trained: the parameters.
            gradients: theirs.
            keep: the weights' gradients stay on them; in the place of what was pulled back of these before.
        """
        factors = self.given.withdraw(trained) if keep else {}
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
            used = not keep and (is_as_marked(present, _USED) or is_as_marked(present, _PILED))
            if present is None:
                parameter.grad = found = gradient
            elif dense and present.layout == torch.strided:
                found = present.add_(gradient)
            else:
                parameter.grad = found = present + gradient
            if used:
                mark(found, _PILED)
            if keep:
                self.given.note(parameter, found, gradient)
        if not keep:
            for one in [found for found in map(stored, trained) if found is not None]:
                mark(one, _GIVEN)
        else:
            self.times += 1
            self.settle()

    def _waits(self, target: nn.Parameter) -> bool:
        """Whether the weights of a target hold gradients with which no optimizer has made a step."""
        weights = self.weights_of.get(id(target), ())
        return any(p.grad is not None and not is_as_marked(p.grad, _STEPPED) for p in weights)

    def _say_piled(self) -> None:
        if not self._said_piled:
            self._said_piled = True
            warnings.warn(
                "The targets' gradients were not cleared since the last step, and what is pulled back is added to "
                "them. Call zero_grad() of the optimizer: the model's own clears the gradients on the weights alone.",
                stacklevel=6,
            )
