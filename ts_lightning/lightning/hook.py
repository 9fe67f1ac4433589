"""The hook into a fit: a target space's part in every step of the strategy's optimizers.

The optimizers' own steps pull back and solve, see :class:`~ts_lightning.engine.steps.steps.OptimizerSteps`. What
Lightning does around them is heard here: a training step and a closure begin with weights that are solved from what is
trained now; gradients are clipped by the norm over all processes, and unscaled on the weights as on the targets; and a
loss that is not finite is seen by callbacks before it ends the fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property, partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.optim import Optimizer

from ts_lightning.engine.space import TargetSpace
from ts_lightning.engine.steps.steps import OptimizerSteps
from ts_lightning.errors import EndlessLoop, TargetSpaceError, first_line
from ts_lightning.lightning.batch_changes import BatchChanges
from ts_lightning.lightning.covers import Covers

#: hooks in which gradients are complete; the first two are those of callbacks, too
_LOOKING = ("on_after_backward", "on_before_optimizer_step", "configure_gradient_clipping", "optimizer_step")


class SolveHook:
    """Puts a target space into a strategy's steps, from :meth:`attach` to :meth:`detach`.

    Args:
        strategy: the strategy in use; its ``optimizer_step``, ``training_step``, ``validation_step``, ``backward`` and
            ``batch_to_device``, the precision plugin's ``post_backward`` and ``clip_gradients``, the scaler's
            ``unscale_``, and what Lightning's wrappers of optimizers have copied are covered on the instance.
        space: the target space whose weights the strategy's optimizers train.
    """

    def __init__(self, strategy: Strategy, space: TargetSpace) -> None:
        self.strategy = strategy
        self._space = space
        self._covers = Covers()
        self._steps = {
            id(optimizer): OptimizerSteps(space.stepping, optimizer, self._agree, self._stepped)
            for optimizer in strategy.optimizers
        }
        self._failure: tuple[TargetSpaceError, int] | None = None
        self._changes = BatchChanges(strategy.lightning_module)
        self._begun: list[int] = []  # versions of the weights at the start of the training step

    def attach(self) -> None:
        """Cover the methods, and take part in the optimizers' steps."""
        precision, cover = self.strategy.precision_plugin, self._covers.cover
        self._step = cover(self.strategy, "optimizer_step", self.optimizer_step)
        self._training_step = cover(self.strategy, "training_step", self.training_step)
        self._batch_to_device = cover(self.strategy, "batch_to_device", self.batch_to_device)
        self._validation_step = cover(self.strategy, "validation_step", self.validation_step)
        self._backward = cover(self.strategy, "backward", self.backward)
        self._clip_gradients = cover(precision, "clip_gradients", self.clip_gradients)
        self._post_backward = cover(precision, "post_backward", self.post_backward)
        if self._space.shards is not None:
            cover(precision, "clip_grad_by_norm", self.clip_grad_by_norm)
        if isinstance(precision, MixedPrecision) and precision.scaler is not None:
            self._unscale = cover(precision.scaler, "unscale_", self.unscale_)
        for callback in self._callbacks():
            own = getattr(callback, "_apply_mapping_to_param_groups", None)
            if own is not None:  # a finetuning callback, under either of Lightning's names
                cover(callback, "_apply_mapping_to_param_groups", partial(self._named_groups, own))
        for wrapper in self.strategy._lightning_optimizers:  # which have copies of the methods of before
            for name in ("zero_grad", "add_param_group"):
                cover(wrapper, name, getattr(wrapper.optimizer, name))
        for steps in self._steps.values():
            steps.attach()
        self._space.cascade.pulled.given.hears = False  # until a backward pass comes by way of the strategy

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """The strategy's own, with weights that are solved from what is trained now.

        Behind it, too, where it may have moved targets by hand, or by an optimizer that another one holds.
        """
        self._changes.say(args[0] if args else None)
        for steps in self._steps.values():
            steps.stand_closest()
        if self._failure is None:
            self._space.cascade.staying.follow()
        self._prepare()
        self._begun = self._versions()
        result = self._training_step(*args, **kwargs)
        module = self.strategy.lightning_module
        if module is not None and not module.automatic_optimization:
            self._prepare()
        return result

    def batch_to_device(self, *args: Any, **kwargs: Any) -> Any:
        """The strategy's own, with the transfer hooks, behind which nobody changes a batch without a word."""
        batch = self._batch_to_device(*args, **kwargs)
        self._changes.note(batch)
        return batch

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        """The strategy's own, with the weights of the targets that an optimizer or a callback has put there for it."""
        if self._failure is None:
            self._space.stepping.solve_if_moved()
        return self._validation_step(*args, **kwargs)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """The strategy's own; a loss from before another optimizer's step is refused by name."""
        self._space.cascade.pulled.given.hears = True  # unless a loop by hand calls the loss's own
        self._space.cascade.pulled.arrive()
        try:
            self._backward(loss, *args, **kwargs)
        except RuntimeError as error:
            if "modified by an inplace operation" not in str(error) or self._begun == self._versions():
                raise  # the latter where forward itself writes to what its gradient needs
            raise TargetSpaceError(
                f"The loss is of weights from before a step, which has solved those of all layers behind the ones that "
                f"it moved ({first_line(error)}). Compute the loss anew behind each step, or step all optimizers "
                f"behind the last backward pass."
            ) from error

    def post_backward(self, *args: Any, **kwargs: Any) -> Any:
        """The precision plugin's own, which calls the hooks behind a backward pass, with gradients pulled back.

        Only where several processes train, and have averaged the gradients: one that reads a gradient later could not
        have it pulled back without the others. And where the user's hooks may look at gradients of norms and
        embeddings, or change them, to which the pull-back adds. Not where the pass was at weights that a training step
        has moved for it and may put back ahead of its step, as sharpness-aware minimisation does.
        """
        module = self.strategy.lightning_module
        moved = module is not None and not module.automatic_optimization and self._space.stepping.elsewhere()
        averaged = getattr(self.strategy.model, "require_backward_grad_sync", True)
        due = averaged if self._space.partition.group is not None else self._looked_at()
        if due and self._steps and not moved:
            next(iter(self._steps.values())).pull()
        return self._post_backward(*args, **kwargs)

    def optimizer_step(self, optimizer: Optimizer, closure: Callable[[], Any], *args: Any, **kwargs: Any) -> Any:
        """The strategy's own step, whose closure begins with weights that are solved from what is trained now."""

        def prepared() -> Any:
            self._prepare()
            return closure()

        return self._step(optimizer, prepared, *args, **kwargs)

    def clip_gradients(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
        """Clip the gradients of what is trained, which are pulled back."""
        given = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer  # as by hand
        if id(given) in self._steps:
            self._steps[id(given)].pull()
        self._clip_gradients(optimizer, *args, **kwargs)

    def clip_grad_by_norm(self, optimizer: Optimizer, clip_val: float) -> None:
        """Clip by the norm over all processes' targets, which no process has alone."""
        parameters = list(self.strategy.precision_plugin.main_params(optimizer))
        norm = self._space.partition.gradient_norm(parameters, self._space.targets)
        torch.nn.utils.clip_grads_with_norm_(parameters, clip_val, norm)

    def unscale_(self, optimizer: Optimizer) -> None:
        """Unscale the targets' gradients, and the weights' with them, which may still be looked at and changed."""
        precision = self.strategy.precision_plugin
        assert isinstance(precision, MixedPrecision)
        scaler: Any = precision.scaler
        steps = self._steps.get(id(optimizer))
        if steps is not None:
            steps.pull()
        self._unscale(optimizer)
        if steps is not None:
            self._space.cascade.pulled.multiply(1 / scaler.get_scale(), self._space.stepping.weights(optimizer))

    def _looked_at(self) -> bool:
        """Whether the user may look at gradients in weight space between this backward pass and a step."""
        module: Any = self.strategy.lightning_module
        if module is None or not (self._space.config.cascade_gradient and self._space.cascade.trained.others):
            return False
        if not module.automatic_optimization:
            return True
        return not module.trainer.fit_loop._should_accumulate() and self._hooks_look

    @cached_property
    def _hooks_look(self) -> bool:
        """Whether the module or a callback has a hook in which gradients are complete; found out once in a fit."""
        module = self.strategy.lightning_module
        assert module is not None
        if any(is_overridden(name, module, LightningModule) for name in _LOOKING):
            return True
        return any(is_overridden(name, one, Callback) for one in self._callbacks() for name in _LOOKING[:2])

    def _callbacks(self) -> list[Any]:
        module: Any = self.strategy.lightning_module
        return [] if module is None else module.trainer.callbacks

    def _named_groups(
        self, own: Callable[..., Any], groups: list[dict[str, Any]], mapping: Mapping[Any, Any]
    ) -> list[dict[str, Any]]:
        """What a finetuning callback writes down of parameter groups: weights in the place of their targets."""
        weights = {self._space.targets[layer.name]: layer.wholes for layer in self._space.layers}
        expanded = [dict.fromkeys(w for p in group["params"] for w in weights.get(p, [p])) for group in groups]
        given = [{**group, "params": list(parameters)} for group, parameters in zip(groups, expanded, strict=True)]
        named: list[dict[str, Any]] = own(given, mapping)
        return named

    def detach(self) -> None:
        """Uncover the methods, leave the optimizers, and free the graph of the last solve."""
        self._covers.uncover()
        if self._failure is None:
            with suppress(TargetSpaceError):  # where an error has ended the fit, that one counts
                self._space.stepping.solve_if_moved()  # of targets that were put back behind the last validation
        self._detach()
        self._space.release()

    def unseen_failure(self) -> TargetSpaceError | None:
        """The error that became of a solve, unless a callback saw what it led to and stopped the fit."""
        module = self.strategy.lightning_module
        stopped = module is not None and module.trainer.should_stop
        return None if self._failure is None or stopped else self._failure[0]

    def _prepare(self) -> None:
        if self._failure is None:
            self._space.stepping.prepare()
        elif self._failure[1] != self._epoch():
            failure, self._failure = self._failure, None
            raise failure[0]

    def _stepped(self) -> None:
        """Solve after a step; where that fails, let callbacks see what became of the weights until the epoch ends."""
        if self._failure is not None:
            return
        try:
            self._space.stepping.stepped()
        except TargetSpaceError as error:
            if self._space.follow_model():
                return  # changed within the step: the next batch begins with a target space of what it is now
            self._failure = (error, self._epoch())
            self._detach()
            if isinstance(error, EndlessLoop):
                raise  # with no numbers, or any others, a loop of the training step may have no end either
            self._space.cascade.lose()
            rank_zero_warn(f"{error} The weights are NaN to the end of the epoch, where the fit ends with this error.")

    def _detach(self) -> None:
        for steps in self._steps.values():
            steps.detach()
        self._steps = {}

    def _versions(self) -> list[int]:
        """Of the solved weights, by which a solve within a training step is known."""
        return [parameter._version for layer in self._space.layers for parameter in layer.parameters]

    def _epoch(self) -> int:
        module = self.strategy.lightning_module
        return 0 if module is None else module.current_epoch

    def _agree(self) -> None:
        """Let all processes skip a step under a gradient scaler if one of them has to."""
        precision = self.strategy.precision_plugin
        if isinstance(precision, MixedPrecision) and precision.scaler is not None:
            self._space.partition.agree_on_overflow(list(self._space.parameters()))
