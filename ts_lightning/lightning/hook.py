"""The hook at ``Strategy.optimizer_step``, the one place that sees every optimizer step.

Around the closure: solve if the targets changed since the last solve, then the ordinary forward and backward, then pull
the weights' gradients back to the targets; that is before unscaling and clipping, which the precision plugin does after
the closure. After the step: solve again, so that the weights hold the solved values at every moment outside a step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from ts_lightning.engine.space import TargetSpace


class SolveHook:
    """Puts a target space's solve and pull-back into a strategy's steps, from :meth:`attach` to :meth:`detach`.

    Args:
        strategy: the strategy in use; its ``optimizer_step``, and where processes share the reference batch the
            precision plugin's ``clip_grad_by_norm``, are covered on the instance.
        space: the target space whose weights the strategy's optimizers train.
    """

    def __init__(self, strategy: Strategy, space: TargetSpace) -> None:
        self.strategy = strategy
        self._space = space
        self._covered: list[tuple[Any, str]] = []
        self._said_overwritten = False

    def attach(self) -> None:
        """Cover the methods."""
        self._step = self._cover(self.strategy, "optimizer_step", self.optimizer_step)
        if self._space.shards is not None:
            self._cover(self.strategy.precision_plugin, "clip_grad_by_norm", self.clip_grad_by_norm)

    def optimizer_step(self, optimizer: Optimizer, closure: Callable[[], Any], *args: Any, **kwargs: Any) -> Any:
        """The strategy's own step between two solves, with the pull-back behind its closure."""
        overwritten = self._space.overwritten()
        kept = bool(overwritten)  # the weights, for as long as there is nothing to learn

        def pulled() -> Any:
            nonlocal kept
            if self._space.stale and not kept:
                self._space.solve()
            result = closure()
            kept = not self._space.pullback() and kept
            self._agree()
            return result

        result = self._step(optimizer, pulled, *args, **kwargs)
        if kept:
            return result  # they are of another's making, as averages at the end of training
        self._space.solve()
        if overwritten and not self._said_overwritten:
            self._said_overwritten = True
            rank_zero_warn(
                f"The weights of {', '.join(overwritten)} were changed between two optimizer steps. They are solved "
                f"from targets, which undoes the change; add the layers to exclude if it is meant to last."
            )
        return result

    def clip_grad_by_norm(self, optimizer: Optimizer, clip_val: float) -> None:
        """Clip by the norm over all processes' targets, which no process has alone."""
        parameters = list(self.strategy.precision_plugin.main_params(optimizer))
        norm = self._space.gradient_norm(parameters)
        torch.nn.utils.clip_grads_with_norm_(parameters, clip_val, norm)

    def detach(self) -> None:
        """Uncover the methods, and free the graph of the last solve."""
        for owner, name in self._covered:
            owner.__dict__.pop(name, None)
        self._covered = []
        self._space.release()

    def _cover(self, owner: Any, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        """Let ``method`` stand for the owner's, which is returned."""
        own: Callable[..., Any] = getattr(owner, name)
        owner.__dict__[name] = method
        self._covered.append((owner, name))
        return own

    def _agree(self) -> None:
        """Let all processes skip a step under a gradient scaler if one of them has to."""
        precision = self.strategy.precision_plugin
        if self._space.shards is None or not isinstance(precision, MixedPrecision) or precision.scaler is None:
            return
        gradients: list[Tensor] = [p.grad for p in self._space.parameters() if p.grad is not None]
        overflow = torch.zeros(1, device=self.strategy.root_device)
        for gradient in gradients:
            overflow += (~gradient.isfinite()).any()
        self._space.shards.sum(overflow)
        some = next((gradient for gradient in gradients if gradient.numel()), None)
        if overflow > 0 and some is not None:  # None where there is nothing to step
            some.view(-1)[0] = torch.inf
