"""Batches that hooks change behind their transfer, in ``on_train_batch_start``, which the reference batch never meets.

The first batch of a fit is looked at as it leaves the transfer hooks, and again as ``training_step`` is given it.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from ts_lightning.engine.batches import tensors_in
from ts_lightning.engine.written import version_of
from ts_lightning.lightning.module import gives


class BatchChanges:
    """Says once in a fit that hooks change batches.

    Args:
        module: whose batches they are; one with a ``reference_forward`` of its own may make the change there.
    """

    def __init__(self, module: LightningModule | None) -> None:
        self._looks = module is not None and not gives(module, "reference_forward")
        self._seen: list[tuple[Tensor, int]] | None = None

    def note(self, batch: Any) -> None:
        """Take note of a batch behind its transfer hooks."""
        if self._looks:
            self._seen = [(tensor, version_of(tensor)) for tensor in tensors_in(batch)]

    def say(self, batch: Any) -> None:
        """Warn if a batch that was noted has other tensors now, or other values; looks once."""
        seen, self._seen = self._seen, None
        if seen is None:
            return
        self._looks = False
        now = list(tensors_in(batch))
        same = len(now) == len(seen) and all(tensor is given for tensor, (given, _) in zip(now, seen, strict=True))
        if not same or any(version_of(tensor) != version for tensor, version in seen):
            rank_zero_warn(
                "A hook changes batches in on_train_batch_start, which the reference batch does not go through: layers "
                "are solved for inputs without the change. Make it in on_after_batch_transfer or in training_step, "
                "which count for both, or in reference_forward(batch), too."
            )
