"""FOOF: gradients of a layer's weights times the inverse of its inputs' Gram matrix (Benzing, ICML 2022).

For a layer Z = A W with rows A (n, d) of the mini-batch, the step is along (A'A / n + damping m I)^-1 dL/dW, where m
is the mean of the diagonal of A'A / n: the input factor of K-FAC alone, which is also what target space does where it
never untangles, but from mini-batches. A has a column of ones for a bias; a row is a sample, a position of an image or
a step of a sequence, whose inputs are then [x_t, h_(t-1)]. Gram matrices are averaged over steps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_IMAGES = 16  # whose patches make the Gram matrix of a convolution


class Foof(torch.optim.Optimizer):
    """Gradient descent with momentum along preconditioned gradients; what is in no layer has plain gradients.

    Args:
        model: its Linear, Conv2d and recurrent modules of one layer are preconditioned.
        lr: learning rate.
        damping: in units of the mean of the Gram matrix' diagonal.
        momentum: of the preconditioned gradients.
        average: how much of the averaged Gram matrix is kept when a new one comes.
        every: steps from one Gram matrix to the next.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        damping: float = 0.1,
        momentum: float = 0.9,
        average: float = 0.8,
        every: int = 10,
    ) -> None:
        defaults = {"lr": lr, "damping": damping, "momentum": momentum}
        super().__init__(model.parameters(), defaults)
        self._average, self._every, self._steps = average, every, 0
        self._grams: dict[nn.Module, Tensor] = {}
        self._factors: dict[nn.Module, Tensor] = {}
        self._layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d, nn.RNNBase))]
        for module in self._layers:
            module.register_forward_hook(self._gather)

    @torch.no_grad()
    def _gather(self, module: nn.Module, given: tuple[Any, ...], out: Any) -> None:
        """Average the Gram matrix of a training pass, every few steps."""
        if not module.training or self._steps % self._every:
            return
        a = _rows(module, given[0], out)
        gram = a.T @ a / len(a)
        kept = self._grams.get(module)
        self._grams[module] = gram = gram if kept is None else torch.lerp(gram, kept, self._average)
        damping = self.param_groups[0]["damping"] * gram.diagonal().mean()
        self._factors[module] = torch.linalg.cholesky(gram + damping * torch.eye(len(gram)))

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step."""
        self._steps += 1
        (group,) = self.param_groups
        for module in self._layers:
            weights = _weights(module)
            gradients = [p.grad for p in weights if p.grad is not None]
            if module not in self._factors or len(gradients) < len(weights):
                continue
            whole = torch.cat([g.flatten(1) if g.dim() > 1 else g[:, None] for g in gradients], 1)
            found = torch.cholesky_solve(whole.T, self._factors[module]).T
            parts = torch.split(found, [p[0].numel() for p in weights], 1)
            for p, part in zip(weights, parts, strict=True):
                p.grad = part.reshape(p.shape)
        for p in group["params"]:
            if p.grad is None:
                continue
            velocity = self.state[p].setdefault("velocity", torch.zeros_like(p))
            velocity.mul_(group["momentum"]).add_(p.grad)
            p.sub_(velocity, alpha=group["lr"])


def _weights(module: nn.Module) -> list[nn.Parameter]:
    """Parameters that act on the columns of A, in their order."""
    if isinstance(module, nn.RNNBase):
        names = ["weight_ih_l0", "weight_hh_l0", *(["bias_ih_l0"] if module.bias else [])]
        return [module.get_parameter(name) for name in names]
    return [p for p in (module.weight, module.bias) if isinstance(p, nn.Parameter)]


def _rows(module: nn.Module, x: Tensor, out: Any) -> Tensor:
    """A (n, d)."""
    if isinstance(module, nn.RNNBase):
        states = functional.pad(out[0][:, :-1], (0, 0, 1, 0))
        a, bias = torch.cat([x, states], -1).flatten(0, 1), module.bias
    elif isinstance(module, nn.Conv2d):
        around: Any = module.padding
        patches = functional.unfold(x[:_IMAGES], module.kernel_size, module.dilation, around, module.stride)
        a, bias = patches.transpose(1, 2).flatten(0, 1), module.bias is not None
    else:
        a, bias = x.flatten(0, -2), module.bias is not None
    return torch.cat([a, a.new_ones(len(a), 1)], 1) if bias else a
