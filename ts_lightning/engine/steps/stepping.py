"""When weights are solved and gradients pulled back around the steps of optimizers, and what is cleared after them.

A step may begin with weights that somebody wrote, be a search along a line, or be one of several optimizers' steps
between which a backward pass of another is still to come.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from ts_lightning.engine.solving.cascade import Cascade
from ts_lightning.engine.steps.optimizers import trained_by
from ts_lightning.engine.steps.step_checks import check_moments, unsolved
from ts_lightning.engine.targets.target import Target
from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers.base import TargetLayer

_UNHEARD = 8  # steps without a gradient, behind which that is said


class _Steps(Protocol):
    optimizer: Optimizer
    own_loop: bool

    def stand_closest(self) -> None:
        """Stand between the step and hooks of others."""


class Stepping:
    """The steps of all optimizers that train one target space.

    Args:
        cascade: the layers and their targets.
    """

    def __init__(self, cascade: Cascade) -> None:
        self.cascade = cascade
        self._following: weakref.WeakSet[_Steps] = weakref.WeakSet()  # steps that pull back and solve by themselves
        self._unscaled: Tensor | None = None  # by what a gradient scaler has multiplied last
        self._reevaluated = False  # whether the loss was asked for at other targets since the last step
        self._passes = 0  # backward passes since the last step
        self._heard: dict[int, int | None] = {}  # by optimizer, its steps without a gradient; None behind one with some

    @property
    def following(self) -> bool:
        """Whether optimizers pull back and solve by their own steps."""
        return bool(self._following)

    def follows(self, optimizer: Optimizer) -> bool:
        """Whether this one does."""
        return any(steps.optimizer is optimizer for steps in self._following)

    def join(self, steps: _Steps) -> None:
        """Follow the steps of an optimizer that trains the targets by these."""
        self._following.add(steps)
        self.follow()

    def leave(self, steps: _Steps) -> None:
        """Follow them no more."""
        self._following.discard(steps)
        self.follow()

    def follow(self) -> None:
        """Let gradients be pulled back when read, if optimizers train the targets by their own steps.

        Not where several processes train: one of them alone may read. There, the backward pass that averages
        gradients is followed by the pull-back; in a loop of one's own reading too early is said.
        """
        cascade, followed = self.cascade, self.following
        cascade.changed_only = cascade.pulled.several = len(self._following) > 1
        cascade.pulled.weights_of = {id(cascade.targets[layer.name]): layer.parameters for layer in cascade.layers}
        alone = cascade.partition.group is None
        own_loop = any(steps.own_loop for steps in self._following)
        cascade.pulled.given.watch(own_loop and alone)
        for layer in cascade.layers:
            target = cascade.targets[layer.name]
            target.before_reading = cascade.pulled.pull_pending if followed and alone else None
            target.before_unscaling = self.unscale if own_loop else None
            target.before_clearing = self.clear_pulled if own_loop and alone else None
            target.weights = () if followed and (alone or not own_loop) else layer.parameters

    def listen(self, optimizer: Optimizer) -> None:
        """Say once where the targets of an optimizer have had no gradient in any of its first steps."""
        steps = self._heard.get(id(optimizer), 0)
        if steps is None:
            return
        layers = [layer for layer in self._layers(optimizer) if self.cascade.targets[layer.name].requires_grad]
        heard = any(self.cascade.targets[layer.name].stored_grad is not None for layer in layers)
        steps += bool(layers)
        self._heard[id(optimizer)] = None if heard or steps == _UNHEARD else steps
        if not heard and steps == _UNHEARD:
            names = ", ".join(layer.name for layer in layers[:5]) + (", ..." if len(layers) > 5 else "")
            warnings.warn(
                f"{type(optimizer).__name__} has made {steps} steps, and no gradient has reached the weights that its "
                f"targets give ({names}), which stay as they are. torch.autograd.grad and backward(inputs=...) take "
                f"gradients there if they are asked for the model's parameters, and not for the optimizer's, which are "
                f"targets. Add the layers to exclude if the loss does not depend on them.",
                stacklevel=2,
            )

    def check(self, optimizer: Optimizer) -> None:
        """Look ahead of a step in a loop of one's own whether gradients were pulled back for it.

        Args:
            optimizer: which trains targets.

        Raises:
            TargetSpaceError: gradients stand on the weights, which the step would leave out.
        """
        self.cascade.partition.stepping(optimizer, lambda: self._targets(optimizer))
        if self._following:
            for steps in self._following:
                if steps.own_loop and steps.optimizer is optimizer:
                    steps.stand_closest()
            return
        self.listen(optimizer)
        if not self.check_solved(optimizer):
            return
        pulled = self.cascade.pulled
        if pulled.arrived():
            raise TargetSpaceError(
                "The optimizer steps targets, and the weights hold gradients that were not pulled back to them. Call "
                "space.pullback() between backward() and optimizer.step()."
            )
        own = trained_by(optimizer)
        pulled.use(self._targets(optimizer), [p for p in self.cascade.trained.others if id(p) in own])

    def check_solved(self, optimizer: Optimizer, *, closure: bool = False) -> bool:
        """Look ahead of a step whether there is a solve that its gradients go back through; whether there is.

        Args:
            optimizer: which trains targets.
            closure: whether it computes its gradients in the step, ahead of which a solve is made unless the space was
                released.

        Raises:
            TargetSpaceError: there is none, or the optimizer holds moments of targets of another shape.
        """
        solution = self.cascade.solution
        if not solution.exists:
            idle = not closure and all(weight.grad is None for weight in self.weights(optimizer))
            if solution.lost or idle or (closure and not solution.released):
                return False
            raise unsolved(optimizer, released=solution.released)
        check_moments(optimizer, self.cascade.targets.values())
        return True

    def pullback(self, *, keep: bool) -> bool:
        """Pull back as the user asks; see :meth:`TargetSpace.pullback`.

        Optimizers that do so by their own steps need the weights' gradients until then, and each pulled back once.
        """
        self.cascade.staying.follow()
        if keep or not self._following:
            return self.cascade.pullback(keep=keep)
        self.cascade.pulled.pull_pending()
        return self.cascade.pulled.found()

    def hand_over(self) -> None:
        """Leave pull-backs to the user, when optimizers made them by their own steps before.

        What was pulled back of the present gradients counts as by a call of the user's, or is taken back where more
        have arrived since.
        """
        cascade = self.cascade
        if cascade.pulled.pending():
            cascade.pulled.given.withdraw(cascade.trained.parameters())
        else:
            cascade.pulled.clear()

    def unscale(self, optimizer: Optimizer, factor: Tensor) -> None:
        """Let the weights' gradients follow those of what an optimizer trains, which a scaler is about to multiply.

        All processes unscale at once, and so may pull back for it. They skip the step if one of them has to.

        Args:
            optimizer: the optimizer.
            factor: one number; the same tensor for all gradients of one unscaling.
        """
        if factor is self._unscaled:
            return
        self._unscaled = factor
        cascade = self.cascade
        cascade.pulled.pull_pending()
        cascade.partition.agree_on_overflow(list(cascade.trained.parameters()))
        cascade.pulled.unscale(float(factor), self.weights(optimizer), trained_by(optimizer))

    def prepare(self) -> None:
        """Make the weights ready for a forward: solve where something changed, but for weights written from outside."""
        cascade = self.cascade
        cascade.trained.settle()
        if not cascade.solution.exists:
            cascade.solve()
        elif cascade.solution.changed() and not cascade.solution.overwritten():
            self._reevaluated = True
            cascade.untangling.end_period()  # so that a search along a line is along one function
            cascade.solve()

    def elsewhere(self) -> bool:
        """Whether this backward pass was at weights that may be put back; called behind each.

        The first sees versions alone. Several processes pull back behind each pass, since one that reads a target's
        gradient later would find none: there, written weights count as kept.
        """
        self._passes += 1
        if self.cascade.partition.group is not None:
            return False
        return self.cascade.outside.stray(unseen=self._passes > 1)

    def stepped(self) -> None:
        """Solve behind an optimizer's step, but for weights written from outside from which nothing was learned.

        Around weights that the step itself has written, as one of an optimizer that asks a model for its weights.
        """
        cascade = self.cascade
        checked, cascade.checked = cascade.checked, False
        self._passes, cascade.outside.strayed = 0, {}
        if self._reevaluated:
            self._reevaluated = False
            cascade.untangling.end_period()
        if checked and cascade.outside.keep_of_step(self._moved):
            return
        if checked or not cascade.solution.overwritten():
            cascade.solve()

    def solved_now(self) -> list[tuple[str, nn.Parameter]]:
        """The solved weights with the names of their modules; none once the space is released."""
        exists = self.cascade.solution.exists
        return [(layer.module_name, p) for layer in self.cascade.layers for p in layer.wholes if exists]

    def weights(self, optimizer: Optimizer) -> list[nn.Parameter]:
        """The solved weights whose targets an optimizer trains."""
        return [parameter for layer in self._layers(optimizer) for parameter in layer.parameters]

    def note(self, optimizer: Optimizer) -> None:
        """Take note of a step; of several optimizers each uses the gradients on the weights of its targets up."""
        self.listen(optimizer)
        if len(self._following) > 1:
            self.cascade.pulled.step(id(optimizer), self.weights(optimizer))

    def clear(self, weights: Sequence[nn.Parameter]) -> None:
        """Clear gradients as an optimizer's ``zero_grad`` does, which was given targets in the place of these weights.

        A gradient on any weight contributes to the targets of all layers before it. So where optimizers pull back by
        themselves, all weights are cleared, and what has arrived for the targets of the others is pulled back before.
        """
        pulled = self.cascade.pulled
        if len(self._following) > 1:
            pulled.pull_pending()
        pulled.clear(None if self._following else weights)

    def clear_pulled(self) -> None:
        """Clear the gradients on all weights, since a loop clears that of a target; the other targets keep theirs."""
        self.cascade.pulled.pull_pending()
        self.cascade.pulled.clear()

    def solve_if_moved(self) -> None:
        """Solve if targets were moved without a step, as ahead of ``zero_grad``; in a loop of one's own the user does.

        Not for other parameters, which a training step may write to, as one clamps a temperature: its backward pass
        through the present weights is still to come.
        """
        if self._following and any(isinstance(p, Target) for p in self.cascade.solution.changed()):
            self.prepare()

    def _moved(self) -> set[str]:
        """The modules whose targets have moved since the last solve."""
        trained, solution = self.cascade.trained, self.cascade.solution
        return {layer.module_name for layer in trained.moved(solution.changed())}

    def _targets(self, optimizer: Optimizer) -> list[Target]:
        """The targets that an optimizer trains."""
        return [self.cascade.targets[layer.name] for layer in self._layers(optimizer)]

    def _layers(self, optimizer: Optimizer) -> list[TargetLayer]:
        """The layers whose targets an optimizer trains."""
        cascade = self.cascade
        trained = trained_by(optimizer)
        return [layer for layer in cascade.layers if id(cascade.targets[layer.name]) in trained]
