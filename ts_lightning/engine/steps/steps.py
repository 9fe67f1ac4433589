"""An optimizer's steps on targets, each with the pull-back before it and the solve behind it.

The step itself is the one place that every way of training reaches: a Trainer, a gradient scaler, a scheduler's
wrapper, a user who calls ``optimizer.step()``. A closure given to it is prepared for and pulled back in the same way,
each time that the optimizer calls it. Gradients on weights stay where they are until ``zero_grad``; whoever reads a
target's gradient, or changes a weight's, at any moment before the step, finds or has them pulled back.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from ts_lightning.engine.steps.compiled import untraced
from ts_lightning.engine.steps.stepping import Stepping


class OptimizerSteps:
    """Lets an optimizer train the targets of a space by its own steps.

    Args:
        stepping: the steps of all optimizers of a target space.
        optimizer: one of them; :meth:`TargetSpace.substitute` has been called with it.
        after_pull: called after each pull-back before a step, as to agree with other processes on an overflow.
        after_step: called after each step; :meth:`Stepping.stepped` where none is given.
        own_loop: whether they belong to a loop of the user's or of a library, which says nothing ahead of them.
    """

    def __init__(
        self,
        stepping: Stepping,
        optimizer: Optimizer,
        after_pull: Callable[[], None] | None = None,
        after_step: Callable[[], None] | None = None,
        *,
        own_loop: bool = False,
    ) -> None:
        self._stepping, self._cascade = stepping, stepping.cascade
        self.optimizer, self.own_loop = optimizer, own_loop
        self._after_pull = after_pull
        self._after_step = stepping.stepped if after_step is None else after_step
        self._hooks: list[Any] = []
        self._own_step: Callable[..., Any] | None = None
        self._stepped_at = 0  # the number of pull-backs at the last step

    def attach(self) -> None:
        """Take part in the optimizer's steps from here on."""
        self._stepping.join(self)
        try:
            self._hooks = [register(own) for register, own, _ in self._places()]
            self.stand_closest()
        except AttributeError:  # a wrapper that does not initialise its base class
            self._own_step = self.optimizer.step
            self.optimizer.__dict__["step"] = self._step

    def stand_closest(self) -> None:
        """Stand between the step and hooks of others, registered before or since; again, if all were cleared.

        Those ahead of a step may change gradients, and those behind it read weights, as one that averages them.
        """
        if not self._hooks:  # of a wrapper, whose step is replaced
            return
        for n, (hook, (register, own, last)) in enumerate(zip(self._hooks, self._places(), strict=True)):
            if not isinstance(hook, RemovableHandle):  # of a wrapper that goes its own way
                continue
            if hook.id not in _registry(hook):  # as of an optimizer that was initialised anew
                hook = self._hooks[n] = register(own)
            _registry(hook).move_to_end(hook.id, last=last)

    def _places(self) -> list[tuple[Callable[[Any], Any], Callable[..., Any], bool]]:
        """What registers each hook, the hook, and whether the one closest to the step is called last."""
        optimizer = self.optimizer
        ahead = (optimizer.register_step_pre_hook, self._before, True)
        return [ahead, (optimizer.register_step_post_hook, self._after, False)]

    def detach(self) -> None:
        """Leave the optimizer as it was."""
        for hook in self._hooks:
            hook.remove()
        if self._own_step is not None:
            self.optimizer.__dict__.pop("step", None)
        self._hooks, self._own_step = [], None
        self._stepping.leave(self)

    def pull(self, *, stepping: bool = False) -> None:
        """Pull back what has arrived on the weights or changed there; see :meth:`Pulled.pull_pending`."""
        cascade = self._cascade
        if not cascade.pulled.pull_pending(stepping=stepping):
            # weights may have been written since somebody read gradients
            cascade.checked = stepping and cascade.pulled.found() and self._stepped_at != cascade.pulled.times
            if cascade.checked:
                cascade.outside.keep(own_loop=False)
        elif self._after_pull is not None:
            self._after_pull()

    @untraced
    def _before(self, optimizer: Any, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        # the first of them is the optimizer itself
        at = next((n for n, value in enumerate(args) if n > 0 and callable(value)), None)
        named = callable(kwargs.get("closure"))
        if self.own_loop:
            self._stepping.check_solved(self.optimizer, closure=named or at is not None)
        # with a closure, gradients may not be complete: processes average them in the last backward pass
        if named:
            return args, {**kwargs, "closure": self._around(kwargs["closure"])}
        if at is not None:
            return (*args[:at], self._around(args[at]), *args[at + 1 :]), kwargs
        self.pull(stepping=True)
        self._cascade.pulled.settle_for(self.optimizer)
        return None

    @untraced
    def _after(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        pulled = self._cascade.pulled
        pulled.settled, self._stepped_at = False, pulled.times
        self._stepping.note(self.optimizer)
        self._after_step()

    def _around(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        def prepared() -> Any:
            self._cascade.pulled.settled = False
            self._stepping.prepare()
            result = closure()
            self.pull(stepping=True)
            self._cascade.pulled.settle_for(self.optimizer)
            return result

        return prepared

    def _step(self, *args: Any, **kwargs: Any) -> Any:
        """The step of an optimizer without hooks."""
        assert self._own_step is not None
        given = (self.optimizer, *args)
        changed, kwargs = self._before(self.optimizer, given, kwargs) or (given, kwargs)
        result = self._own_step(*changed[1:], **kwargs)
        self._after(self.optimizer, changed, kwargs)
        return result


def _registry(hook: RemovableHandle) -> OrderedDict[int, Any]:
    """Where a hook stands, which may be in what an optimizer wraps; an empty one if that is gone."""
    found: OrderedDict[int, Any] | None = hook.hooks_dict_ref()
    return OrderedDict() if found is None else found
