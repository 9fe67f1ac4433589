"""What stands in the way of a step of targets: weights that were not solved from them, moments of other ones."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor
from torch.optim import Optimizer

from ts_lightning.engine.targets.target import Target
from ts_lightning.errors import TargetSpaceError


def unsolved(optimizer: Optimizer, *, released: bool) -> TargetSpaceError:
    """The error of a step whose gradients go back through no solve.

    Args:
        optimizer: which trains targets.
        released: whether the space was released since the last solve.
    """
    if released:
        return TargetSpaceError(
            f"{type(optimizer).__name__} trains targets of a target space that was released, as at the end of "
            f"a fit, and the weights would stay as they are. To train the weights, make another optimizer, of "
            f"model.parameters() (in Lightning by configure_optimizers()); to go on in target space, call "
            f"space.solve() before the forward, or fit again."
        )
    return TargetSpaceError(
        f"{type(optimizer).__name__} steps targets without a solve, as behind space.load_state_dict(): the "
        f"weights hold gradients that were not pulled back. Call space.solve() before the forward."
    )


def check_moments(optimizer: Optimizer, targets: Iterable[Target]) -> None:
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
