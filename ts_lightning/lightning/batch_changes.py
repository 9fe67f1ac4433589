"""Batches that hooks change behind their transfer, in ``on_train_batch_start``, which the reference batch never meets.

Where such a hook stands, each batch is looked at as it leaves the transfer hooks, and again as ``training_step`` is
given it, until one has changed.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from ts_lightning.engine.running.batches import tensors_in
from ts_lightning.engine.running.written import version_of
from ts_lightning.lightning.module import gives

_HOOK = "on_train_batch_start"


class BatchChanges:
    """Says once that hooks change batches.

    Args:
        module: whose batches they are; one that gives the reference batch, or calls the model with it, may make the
            change there.
    """

    def __init__(self, module: LightningModule | None) -> None:
        self._watched = module if module is not None and _may_change(module) else None
        self._seen: list[tuple[Tensor, int]] | None = None

    def note(self, batch: Any) -> None:
        """Take note of a batch for training behind its transfer hooks."""
        if self._watched is not None and self._watched.trainer.training:
            self._seen = [(tensor, version_of(tensor)) for tensor in tensors_in(batch)]

    def say(self, batch: Any) -> None:
        """Warn if a batch that was noted has other tensors now, or other values."""
        seen, self._seen = self._seen, None
        if seen is None:
            return
        now = list(tensors_in(batch))
        same = len(now) == len(seen) and all(tensor is given for tensor, (given, _) in zip(now, seen, strict=True))
        if not same or any(version_of(tensor) != version for tensor, version in seen):
            self._watched = None
            rank_zero_warn(
                "A hook changes batches in on_train_batch_start, which the reference batch does not go through: layers "
                "are solved for inputs without the change. Make it in on_after_batch_transfer or in training_step, "
                "which count for both, or in reference_forward(batch), too."
            )


def _may_change(module: LightningModule) -> bool:
    """Whether there is a hook that may change batches, of which the reference batch knows nothing."""
    if gives(module, "reference_batch") or gives(module, "reference_forward"):
        return False
    callbacks = module.trainer.callbacks  # type: ignore[attr-defined] # the Trainer's class does not declare them
    return is_overridden(_HOOK, module, LightningModule) or any(
        is_overridden(_HOOK, one, Callback) for one in callbacks
    )
