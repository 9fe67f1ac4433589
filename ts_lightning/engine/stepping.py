"""When weights are solved and gradients pulled back around the steps of optimizers, and what is cleared after them.

A step may begin with weights that somebody wrote, be a search along a line, or be one of several optimizers' steps
between which a backward pass of another is still to come.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch import Tensor, nn
from torch.optim import Optimizer

from ts_lightning.engine.cascade import Cascade
from ts_lightning.engine.optimizers import trained_by
from ts_lightning.engine.target import Target
from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers.base import TargetLayer

_UNHEARD = 8  # steps without a gradient, behind which that is said


class Stepping:
    """The steps of all optimizers that train one target space.

    Args:
        cascade: the layers and their targets.
    """

    def __init__(self, cascade: Cascade) -> None:
        self._cascade = cascade
        self._optimizers = 0  # that pull back and solve by their own steps
        self._reevaluated = False  # whether the loss was asked for at other targets since the last step
        self._passes = 0  # backward passes since the last step
        self._heard: dict[int, int | None] = {}  # by optimizer, its steps without a gradient; None behind one with some

    def follow(self, optimizers: int) -> None:
        """Count optimizers that train the targets by their own steps; gradients are then pulled back when read.

        Not where several processes train: one of them alone may read. There, the backward pass that averages
        gradients is followed by the pull-back.
        """
        self._optimizers += optimizers
        cascade = self._cascade
        cascade.changed_only = cascade.pulled.several = self._optimizers > 1
        cascade.pulled.weights_of = {id(cascade.targets[layer.name]): layer.parameters for layer in cascade.layers}
        alone = cascade.partition.group is None
        before = cascade.pulled.pull_pending if self._optimizers and alone else None
        for layer in cascade.layers:
            target = cascade.targets[layer.name]
            target.before_reading = before
            target.weights = () if self._optimizers else layer.parameters

    def listen(self, optimizer: Optimizer) -> None:
        """Say once where the targets of an optimizer have had no gradient in any of its first steps."""
        steps = self._heard.get(id(optimizer), 0)
        if steps is None:
            return
        layers = [layer for layer in self._layers(optimizer) if self._cascade.targets[layer.name].requires_grad]
        heard = any(self._cascade.targets[layer.name].stored_grad is not None for layer in layers)
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
        if self._cascade.partition.looks:
            self._cascade.partition.stepping(optimizer, self._targets(optimizer))
        if self._optimizers:
            return
        self.listen(optimizer)
        solution = self._cascade.solution
        if not solution.exists:
            if solution.lost or all(weight.grad is None for weight in self.weights(optimizer)):
                return
            if solution.released:
                raise TargetSpaceError(
                    f"{type(optimizer).__name__} trains targets of a target space that was released, as at the end of "
                    f"a fit, and the weights would stay as they are. To train the weights, make another optimizer, of "
                    f"model.parameters() (in Lightning by configure_optimizers()); to go on in target space, call "
                    f"space.solve() before the forward, or fit again."
                )
            raise TargetSpaceError(
                f"{type(optimizer).__name__} steps targets without a solve, as behind space.load_state_dict(): the "
                f"weights hold gradients that were not pulled back. Call space.solve() before the forward."
            )
        pulled = self._cascade.pulled
        if pulled.arrived():
            raise TargetSpaceError(
                "The optimizer steps targets, and the weights hold gradients that were not pulled back to them. Call "
                "space.pullback() between backward() and optimizer.step()."
            )
        trained = self._targets(optimizer)
        _check_moments(optimizer, trained)
        own = trained_by(optimizer)
        pulled.use(trained, [p for p in self._cascade.trained.others if id(p) in own])

    def prepare(self) -> None:
        """Make the weights ready for a forward: solve where something changed, but for weights written from outside."""
        cascade = self._cascade
        cascade.trained.settle()
        if not cascade.solution.exists:
            cascade.solve()
        elif cascade.solution.changed() and not cascade.solution.overwritten():
            self._reevaluated = True
            cascade.untangling.end_period()  # so that a search along a line is along one function
            cascade.solve()

    def elsewhere(self) -> bool:
        """Whether this backward pass was at written weights; called behind each, of which the first sees versions."""
        self._passes += 1
        outside = self._cascade.outside
        outside.elsewhere = bool(outside.modules(unseen=self._passes > 1))
        return outside.elsewhere

    def stepped(self) -> None:
        """Solve behind an optimizer's step, but for weights written from outside from which nothing was learned.

        Around weights that the step itself has written, as one of an optimizer that asks a model for its weights.
        """
        cascade = self._cascade
        checked, cascade.checked = cascade.checked, False
        self._passes, cascade.outside.elsewhere = 0, False
        if self._reevaluated:
            self._reevaluated = False
            cascade.untangling.end_period()
        if checked and cascade.outside.keep_of_step(self._moved):
            return
        if checked or not cascade.solution.overwritten():
            cascade.solve()

    def weights(self, optimizer: Optimizer) -> list[nn.Parameter]:
        """The solved weights whose targets an optimizer trains."""
        return [parameter for layer in self._layers(optimizer) for parameter in layer.parameters]

    def note(self, optimizer: Optimizer) -> None:
        """Take note of a step; of several optimizers each uses the gradients on the weights of its targets up."""
        self.listen(optimizer)
        if self._optimizers > 1:
            self._cascade.pulled.step(id(optimizer), self.weights(optimizer))

    def clear(self, weights: Sequence[nn.Parameter]) -> None:
        """Clear gradients as an optimizer's ``zero_grad`` does, which was given targets in the place of these weights.

        A gradient on any weight contributes to the targets of all layers before it. So where optimizers pull back by
        themselves, all weights are cleared, and what has arrived for the targets of the others is pulled back before.
        """
        pulled = self._cascade.pulled
        if self._optimizers > 1:
            pulled.pull_pending()
        pulled.clear(None if self._optimizers else weights)

    def solve_if_moved(self) -> None:
        """Solve if targets were moved without a step, as ahead of ``zero_grad``; in a loop of one's own the user does.

        Not for other parameters, which a training step may write to, as one clamps a temperature: its backward pass
        through the present weights is still to come.
        """
        if self._optimizers and any(isinstance(p, Target) for p in self._cascade.solution.changed()):
            self.prepare()

    def _moved(self) -> set[str]:
        """The modules whose targets have moved since the last solve."""
        trained, solution = self._cascade.trained, self._cascade.solution
        return {layer.module_name for layer in trained.moved(solution.changed())}

    def _targets(self, optimizer: Optimizer) -> list[Target]:
        """The targets that an optimizer trains."""
        return [self._cascade.targets[layer.name] for layer in self._layers(optimizer)]

    def _layers(self, optimizer: Optimizer) -> list[TargetLayer]:
        """The layers whose targets an optimizer trains."""
        cascade = self._cascade
        trained = trained_by(optimizer)
        return [layer for layer in cascade.layers if id(cascade.targets[layer.name]) in trained]


def _check_moments(optimizer: Optimizer, targets: Sequence[Target]) -> None:
    """Raise TargetSpaceError where an optimizer has moments of targets of the shape from before a refresh."""
    for target in targets:
        if target.former is None:
            continue
        for value in optimizer.state.get(target, {}).values():
            if isinstance(value, Tensor) and value.shape == target.former:
                raise TargetSpaceError(
                    f"{type(optimizer).__name__} holds moments {tuple(value.shape)} of targets {tuple(target.shape)}, "
                    f"as behind space.refresh() with another number of samples. Let them start anew: make another "
                    f"optimizer, or for each of space.targets.values() call optimizer.state.pop(target, None)."
                )
