"""An optimizer for targets: Adam with one second moment for all of them.

Targets are pre-activations, all in comparable units (``step_scale``), and the solve has taken the scales of the inputs
out of their gradients. What the sizes of these gradients say, of layers and of samples, is information; Adam divides it
away, number by number. SGD keeps it, but its learning rate depends on the scale of the loss. Here the gradients of all
targets are divided by one running root mean square of theirs: the direction is that of SGD, the length that of Adam.

Source: the update is that of AdaGrad-Norm (Ward, Wu, Bottou, JMLR 21(219), 2020), with Adam's averages (Kingma and Ba,
ICLR 2015) in the place of sums; docs/evidence.md has what it gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.optimizer import Optimizer, ParamsT

from ts_lightning.engine.target import Target
from ts_lightning.errors import expect


class TargetAdam(Optimizer):
    """Adam with one second moment for all targets; everything else, weights among it, is trained by Adam itself.

    With G the gradients of a layer's targets, and g^2 the mean over layers of the mean squares of their G:

        T <- T - lr average(G) / (sqrt(max(average(g^2), g^2)) + eps)

    Averages are exponential and corrected for their start at zero, as Adam's. The maximum keeps a step short where
    gradients have grown all of a sudden.

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
        lr: the learning rate, in units of the targets (``step_scale``), above or equal to 0.
        betas: of Adam's averages of gradients and squares; the second one's holds for targets, too.
        momentum: the average of the targets' gradients, in the place of the first of ``betas``; from 0 to below 1.
        eps: added to the root mean squares.

    Raises:
        SettingError: a setting is out of its range.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.002,
        betas: tuple[float, float] = (0.9, 0.999),
        momentum: float = 0.5,
        eps: float = 1e-8,
    ) -> None:
        expect("lr", lr, 0)
        expect("eps", eps, 0)
        for name, value in (("betas[0]", betas[0]), ("betas[1]", betas[1]), ("momentum", momentum)):
            expect(name, value, 0, below=1)
        super().__init__(params, {"lr": lr, "betas": betas, "momentum": momentum, "eps": eps})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step; returns what ``closure``, which computes the loss and its gradients anew, gave.

        Raises:
            RuntimeError: a gradient is sparse.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        targets: list[tuple[dict[str, Any], list[Target], list[Tensor]]] = []
        for group in self.param_groups:
            found = [(p, gradient) for p in group["params"] if (gradient := p.grad) is not None]
            if any(gradient.is_sparse for _, gradient in found):
                raise RuntimeError("TargetAdam does not support sparse gradients. Use torch.optim.SparseAdam for them.")
            mine = [(p, gradient) for p, gradient in found if isinstance(p, Target)]
            targets.append((group, [p for p, _ in mine], [gradient for _, gradient in mine]))
            self._adam(group, [(p, gradient) for p, gradient in found if not isinstance(p, Target)])
        square = _mean_square([(p, g) for _, ps, gs in targets for p, g in zip(ps, gs, strict=True)])
        for group, parameters, gradients in targets:
            if parameters:
                self._step_targets(group, parameters, gradients, square)
        return loss

    def _adam(self, group: dict[str, Any], found: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Adam's step."""
        states = []
        for parameter, _ in found:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros(())
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
            states.append(state)
        beta1, beta2 = group["betas"]
        adam(
            [parameter for parameter, _ in found],
            [gradient for _, gradient in found],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=0.0,
            eps=group["eps"],
            maximize=False,
        )

    def _step_targets(
        self, group: dict[str, Any], targets: Sequence[Target], gradients: Sequence[Tensor], square: Tensor
    ) -> None:
        """The step of targets, given the mean ``square`` of all gradients, ()."""
        momentum, beta2 = group["momentum"], group["betas"][1]
        states = []
        for target in targets:
            state = self.state[target]
            if not state:
                state["step"] = torch.zeros(())
                state["exp_avg"] = torch.zeros_like(target)
                state["exp_avg_sq"] = torch.zeros((), dtype=target.dtype, device=target.device)
            states.append(state)
        means, squares = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq"))
        torch._foreach_lerp_(means, list(gradients), 1 - momentum)
        present = [square.to(value) for value in squares]
        torch._foreach_lerp_(squares, present, 1 - beta2)
        steps, scales = [], []
        for state in states:
            state["step"] += 1
            made = int(state["step"])
            steps.append(-float(group["lr"]) / (1 - momentum**made))
            scales.append(1 - beta2**made)
        lengths = torch._foreach_div(squares, scales)
        torch._foreach_maximum_(lengths, present)
        torch._foreach_sqrt_(lengths)
        torch._foreach_add_(lengths, group["eps"])
        torch._foreach_reciprocal_(lengths)
        torch._foreach_mul_(lengths, steps)
        torch._foreach_addcmul_(list(targets), means, lengths)


def _mean_square(found: Sequence[tuple[Target, Tensor]]) -> Tensor:
    """The mean over layers of the gradients' mean squares, over all processes that share the targets, ()."""
    if not found:
        return torch.zeros(())
    gradients = [gradient for _, gradient in found]
    sums = torch.stack([norm.to(gradients[0].device) for norm in torch._foreach_norm(gradients)]).square()
    counts = torch.tensor([gradient.numel() for gradient in gradients]).to(sums)
    shards = found[0][0].shards
    if shards is not None:
        shards.sum(sums, counts)
    return (sums / counts).mean()
