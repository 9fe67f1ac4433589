"""Targets in the place of solved weights in an optimizer, whose options and list objects stay."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from torch import nn
from torch.optim import Optimizer

from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers.base import TargetLayer

#: optimizers whose step for a number depends on others than its own gradients
_NOT_ELEMENTWISE = ("LBFGS", "Muon", "Adafactor")


def substitute(
    optimizer: Optimizer,
    layers: Sequence[TargetLayer],
    targets: Mapping[str, nn.Parameter],
    ranks: int,
    clear: Callable[[Sequence[nn.Parameter]], None],
) -> None:
    """Make the substitution, see :meth:`TargetSpace.substitute`.

    Args:
        optimizer: before its first step.
        layers: what is solved.
        targets: by layer name.
        ranks: the processes that share the targets.
        clear: clears the gradients on weights.

    Raises:
        TargetSpaceError: the optimizer has made a step, or needs all targets in one process.
    """
    targeted = {id(parameter) for layer in layers for parameter in layer.parameters}
    kind = type(optimizer).__name__
    if any(id(p) in targeted for p in optimizer.state):
        raise TargetSpaceError(
            f"{kind} already holds state for weights that targets should replace. Make the substitution before the "
            f"first step."
        )
    if kind in _NOT_ELEMENTWISE:
        if ranks > 1:
            raise TargetSpaceError(
                f"{kind} looks at all targets at once, and each of {ranks} processes has its own. Use "
                f"reference.shard=False, or an optimizer that treats every number for itself, as Adam."
            )
        for target in targets.values():
            target.data = target.data.contiguous()  # LBFGS views gradients as vectors
    replacement = {id(layer.parameters[0]): targets[layer.name] for layer in layers}
    solved: list[nn.Parameter] = []
    for group in optimizer.param_groups:
        solved += [p for p in group["params"] if id(p) in targeted]
        kept = [p for p in group["params"] if id(p) in replacement or id(p) not in targeted]
        group["params"][:] = [replacement.get(id(p), p) for p in kept]
    # so that it clears what it would have cleared
    optimizer.__dict__["zero_grad"] = partial(_zero_grad, optimizer.zero_grad, partial(clear, solved))


def _zero_grad(original: Callable[..., None], clear: Callable[[], None], set_to_none: bool = True) -> None:
    clear()  # first, so that nothing is left to pull back where the targets' gradients are looked at
    original(set_to_none)
