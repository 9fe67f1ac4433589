"""An optimizer for targets: momentum on gradients that are divided by one root mean square of all targets.

Targets are pre-activations, all in comparable units (``step_scale``), and the solve has taken the scales of the inputs
out of their gradients. What the sizes of these gradients say, of layers and of samples, is information; Adam divides it
away, number by number. SGD keeps it, but its learning rate depends on the scale of the loss. Here the gradients of all
targets are divided by one running root mean square of theirs: the direction is that of SGD, the length that of Adam.

Source: the update is that of AdaGrad-Norm (Ward, Wu, Bottou, JMLR 21(219), 2020), with Adam's averages (Kingma and Ba,
ICLR 2015) in the place of sums; docs/evidence.md has what it gives.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.optimizer import Optimizer, ParamsT

from ts_lightning.amount import amount
from ts_lightning.engine.steps.compiled import untraced
from ts_lightning.engine.targets.target import Target
from ts_lightning.errors import TargetSpaceError
from ts_lightning.optim.distance import Travel, mean_squares
from ts_lightning.optim.options import FORMER, OPTIONS, checked


class TargetAdam(Optimizer):
    """Adam with one second moment for all targets; everything else, weights among it, is trained by AdamW itself.

    With G the gradients of a layer's targets, and g^2 the mean over layers of the mean squares of their G:

        T <- T - lr average(G / (sqrt(max(average(g^2), g^2)) + eps))

    Averages are exponential and corrected for their start at zero, as Adam's. The root of the mean over layers of a
    step's mean squares is lr at most, however much gradients grow all of a sudden. There is one measure g for the
    targets of one optimizer, and for all processes; groups with another second beta have their own average of it.

    With ``adaptive_lr`` all rates are multiplied, in step k, by

        max(1, D / (highest lr so far * sqrt(k)))

    with D the largest distance so far of the targets from their start, the root of the mean over layers of mean
    squares; layers that are no longer trained count as well. Steps without a common direction lead no further than
    that root, and the rate is the given one. Where the targets keep on moving in one direction, it grows
    (:mod:`ts_lightning.optim.distance` has the source).

    Examples:
        In a loop of one's own; in Lightning ``configure_optimizers`` returns ``TargetAdam(self.parameters())``.

        >>> import torch
        >>> from torch import nn
        >>> from ts_lightning import TargetAdam, TargetSpace
        >>> _ = torch.manual_seed(0)
        >>> x = torch.rand(100, 1)
        >>> y = torch.sin(6 * x)
        >>> model = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
        >>> space = TargetSpace(model, x)
        >>> optimizer = TargetAdam(space.parameters(), lr=0.002)
        >>> for _ in range(200):
        ...     loss = (model(x) - y).square().mean()
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     _ = space.pullback()
        ...     optimizer.step()
        ...     space.solve()
        >>> bool(loss < 0.02)
        True

    Args:
        params: parameters or groups of them; targets take the place of solved weights later.
        lr: the learning rate, in units of the targets (``step_scale``), at least 0.
        betas: of AdamW's averages of gradients and squares; the second one's holds for targets, too.
        momentum: the average of the targets' gradients, in the place of the first of ``betas``, from 0 to below 1.
            Schedulers that cycle a momentum (OneCycleLR) change the first of ``betas``, and not this one.
        eps: added to the root mean squares.
        weight_decay: AdamW's, of everything but targets; weights that are solved are decayed by the ridge.
        rest_lr_mult: times ``lr``, the learning rate of everything but targets, as long as this optimizer has targets.
            Tables of words, norms and tokens learn best at about ten times the targets' rate; layers that are not
            solved may not.
        adaptive_lr: rates grow with the distance that targets have come, and ``lr`` is the least one; whatever else
            the optimizer trains grows along, as long as it has targets. It needs memory of the size of the targets.

    Raises:
        SettingError: a setting is out of its range, or a group asks for an option of Adam that this one has not.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.002,
        betas: tuple[float, float] = (0.9, 0.999),
        momentum: float = 0.5,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        rest_lr_mult: float = 1.0,
        adaptive_lr: bool = False,
    ) -> None:
        options = {
            "lr": lr,
            "betas": betas,
            "momentum": momentum,
            "eps": eps,
            "weight_decay": weight_decay,
            "rest_lr_mult": rest_lr_mult,
            "adaptive_lr": adaptive_lr,
        }
        super().__init__(params, checked(options))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, whose options are checked."""
        options = checked({**self.defaults, **param_group})
        super().add_param_group({name: options[name] for name in param_group})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a state; options that it does not have, as of an older version or of Adam, stay each group's own."""
        given, own = state_dict["param_groups"], self.param_groups
        if len(given) == len(own):
            kept = [{name: group[name] for name in OPTIONS} for group in own]
            state_dict = {**state_dict, "param_groups": [{**k, **g} for k, g in zip(kept, given, strict=True)]}
        super().load_state_dict(state_dict)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a state, as ``load_state_dict`` does; of another optimizer's only what is the same in both."""
        super().__setstate__(state)
        for name, value in FORMER.items():  # of a pickle from before there was one
            self.defaults.setdefault(name, value)
        for group in self.param_groups:
            for name in OPTIONS:
                group.setdefault(name, self.defaults[name])
        others = [p for p, held in self.state.items() if isinstance(p, Target) and not shares_one(held)]
        for target in others:
            del self.state[target]
        if others:
            whose = amount(len(others), "layer's", "layers'")
            warnings.warn(
                f"TargetAdam was given the state of another optimizer. The moments of {whose} targets start anew: "
                f"those are of every number, and it needs one for all.",
                stacklevel=2,
            )

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @untraced
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step; returns what ``closure``, which computes the loss and its gradients anew, gave.

        Raises:
            TargetSpaceError: a gradient is sparse.
        """
        with torch.enable_grad():
            loss = None if closure is None else closure()
        beside = bool(self._targets())
        mine: list[tuple[dict[str, Any], list[tuple[Target, Tensor]]]] = []
        others: list[tuple[dict[str, Any], list[tuple[Tensor, Tensor]]]] = []
        for group in self.param_groups:
            found = [(p, gradient) for p in group["params"] if (gradient := p.grad) is not None]
            if any(gradient.is_sparse for _, gradient in found):
                raise TargetSpaceError(
                    "TargetAdam does not support sparse gradients. Use torch.optim.SparseAdam for them."
                )
            mine.append((group, [(p, gradient) for p, gradient in found if isinstance(p, Target)]))
            others.append((group, [(p, gradient) for p, gradient in found if not isinstance(p, Target)]))
        gradients = {target: gradient for _, pairs in mine for target, gradient in pairs}
        adaptive = beside and any(group["adaptive_lr"] for group in self.param_groups)
        moved, travel = self._moved(gradients) if adaptive else {}, None
        if gradients or moved:
            present, come = mean_squares(gradients, moved)
            if adaptive:
                held = [self.state[target] for target in self._targets() if self.state.get(target)]
                lr = max((float(group["lr"]) for group, pairs in mine if pairs), default=0.0)
                travel = Travel.behind(held, come.sqrt(), lr)
            measured = {beta2: self._newest(beta2, present) for beta2 in {group["betas"][1] for group, _ in mine}}
            for group, pairs in mine:
                if pairs:
                    self._step_targets(group, pairs, *measured[group["betas"][1]], present, travel)
        for group, found in others:
            self._step_others(group, found, beside, travel)
        return loss

    def _step_others(
        self, group: dict[str, Any], found: Sequence[tuple[Tensor, Tensor]], beside: bool, travel: Travel | None
    ) -> None:
        """AdamW's step of what is no target; ``beside`` targets, which have come as far as ``travel`` says."""
        if not found:
            return
        lr = group["lr"] * group["rest_lr_mult"] if beside else group["lr"]
        if travel is not None and group["adaptive_lr"]:
            lr = float(lr) * float(travel.growth)
        states = []
        for parameter, _ in found:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
            states.append(state)
        beta1, beta2 = group["betas"]
        adamw(
            [parameter for parameter, _ in found],
            [gradient for _, gradient in found],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            has_complex=any(parameter.is_complex() for parameter, _ in found),
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=lr,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _newest(self, beta2: float, like: Tensor) -> tuple[int, Tensor]:
        """Steps so far, and the running mean square, (), of the targets with this ``beta2`` that have made most.

        A target that had no gradient for a while, or that joins, goes on from there.
        """
        states = [self.state[p] for p in self._targets(beta2) if self.state.get(p)]
        if not states:
            return 0, torch.zeros_like(like)
        newest = max(states, key=lambda state: int(state["step"]))
        return int(newest["step"]), newest["exp_avg_sq"].to(like)

    def _targets(self, beta2: float | None = None) -> list[Target]:
        """The targets of all groups, or of those with this ``beta2``."""
        groups = [group for group in self.param_groups if beta2 is None or group["betas"][1] == beta2]
        return [p for group in groups for p in group["params"] if isinstance(p, Target)]

    def _moved(self, stepping: Mapping[Target, Tensor]) -> dict[Target, Tensor]:
        """How far steps have moved targets so far, of their shapes: all that they have moved, and those that they will.

        From 0 where a target has not been asked for before.
        """
        known = {target: self.state.get(target, {}).get("moved") for target in self._targets()}
        return {
            target: torch.zeros_like(target) if moved is None else moved
            for target, moved in known.items()
            if moved is not None or target in stepping
        }

    def _step_targets(
        self,
        group: dict[str, Any],
        pairs: Sequence[tuple[Target, Tensor]],
        step: int,
        square: Tensor,
        present: Tensor,
        travel: Travel | None,
    ) -> None:
        """The step of targets.

        Args:
            group: their options.
            pairs: targets and their gradients.
            step: how many there were before.
            square: the running mean square of all gradients before, ().
            present: the mean square of all gradients now, ().
            travel: how far all targets have come, where a group has ``adaptive_lr``.
        """
        momentum, beta2 = group["momentum"], group["betas"][1]
        square = square.lerp(present, 1 - beta2)
        length = torch.maximum(square / (1 - beta2 ** (step + 1)), present).sqrt() + group["eps"]
        made = torch.tensor(step + 1, dtype=torch.float32)
        means = []
        for target, _ in pairs:
            state = self.state[target]
            if not state:
                state["exp_avg"] = torch.zeros_like(target)
            # of all targets, and never written to: the next step has others
            state["step"], state["exp_avg_sq"] = made, square.to(target)
            if travel is not None:
                state.setdefault("moved", torch.zeros_like(target))
                state["distance"], state["highest_lr"] = travel.distance.to(target), travel.highest
            means.append(state["exp_avg"])
        divided = [gradient / length.to(gradient) for _, gradient in pairs]
        torch._foreach_lerp_(means, divided, 1 - momentum)
        rate = -float(group["lr"]) / (1 - momentum ** (step + 1))
        if travel is None:
            torch._foreach_add_([target for target, _ in pairs], means, alpha=rate)
            return
        factor = rate * travel.growth if group["adaptive_lr"] else torch.full_like(travel.growth, rate)
        moves = [mean * factor.to(mean) for mean in means]
        torch._foreach_add_([target for target, _ in pairs], moves)
        torch._foreach_add_([self.state[target]["moved"] for target, _ in pairs], moves)


def shares_one(state: Mapping[str, Any]) -> bool:
    """Whether a state is this optimizer's: others with one mean square for a target count no steps beside it."""
    return {"exp_avg", "step"} <= set(state) and getattr(state.get("exp_avg_sq"), "shape", None) == ()
