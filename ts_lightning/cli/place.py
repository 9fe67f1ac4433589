"""Where an error happened, behind its traceback: in which batch and step, or ahead of them."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from ts_lightning.amount import amount

#: what an error in another process is raised as
_ELSEWHERE = (ProcessRaisedException, ProcessExitedException)
_STAGES = {"sanity_check": "the sanity check", "validate": "validation", "test": "testing", "predict": "prediction"}


class Place(Callback):
    """Adds a note to an error, which Python 3.11 and later print as its last line."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Add it, but to an error in another process (``ddp_spawn``), of whose place this one knows nothing."""
        if hasattr(exception, "add_note") and not isinstance(exception, _ELSEWHERE):
            exception.add_note(f"This happened {_place(trainer)}.")


def _place(trainer: Trainer) -> str:
    steps = f"after {amount(trainer.global_step, 'step')}"
    if not trainer.training:
        return (
            f"in {_STAGES[trainer.state.stage.value]}, {steps}" if trainer.state.stage else "ahead of the first batch"
        )
    batches = trainer.fit_loop.epoch_loop.batch_progress.current
    if batches.ready == batches.completed:
        return f"between two training batches, {steps}" if batches.ready else "ahead of the first training batch"
    return f"in training, batch {batches.ready} of epoch {trainer.current_epoch + 1}, {steps}"
