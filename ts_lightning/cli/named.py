"""The metric that a comparison names: whether a run logs it is found out while the run has just begun."""

from __future__ import annotations

import warnings

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger

from ts_lightning.errors import SettingError
from ts_lightning.report.history import is_metric
from ts_lightning.report.metric import Metric


class NamedMetric(Callback):
    """Ends a fit that does not log a metric of this name.

    A name that tells of validation (``val_loss``) is looked for after the first validation. Any other may be of
    training, of which an average is there only when an epoch has ended: it is looked for after the first epoch that
    had a validation, and a validation before that warns of it.

    Args:
        name: as the module logs it.
        then_test: the fit is followed by a test, which may log it: only names of training and validation are checked.
    """

    def __init__(self, name: str, then_test: bool = False) -> None:
        self.name, self.then_test = name, then_test
        self._validated = self._warned = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look for a metric of validation, and warn of the lack of another."""
        if trainer.sanity_checking:
            return
        self._validated = True
        if self._tells("validation"):
            self._refuse(trainer)
        elif not trainer.is_last_batch and not self._warned and not self._may_be_of_the_test:
            self._warned = True
            names = self._lacking(trainer)
            if names is not None:
                warnings.warn(
                    f"--metric {self.name}: found {_listed(names)} so far. The run ends after its first epoch if it "
                    f"has not come by then.",
                    stacklevel=2,
                )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look for it once an epoch has ended, with its averages."""
        if (self._validated or not trainer.enable_validation) and trainer.fit_loop.epoch_progress.current.completed:
            self._refuse(trainer)

    @property
    def _may_be_of_the_test(self) -> bool:
        return self.then_test and not self._tells("training") and not self._tells("validation")

    def _tells(self, split: str) -> bool:
        """Whether the name tells of this split, whatever a name without one is taken for."""
        return {Metric.of(self.name, "training").split, Metric.of(self.name, "test").split} == {split}

    def _refuse(self, trainer: Trainer) -> None:
        """End the run if it lacks the metric."""
        names = None if self._may_be_of_the_test else self._lacking(trainer)
        if names is not None:
            raise SettingError(
                f"--metric {self.name}: found {_listed(names)}; expected one of these, or one that is logged from the "
                f"first validation or epoch on."
            )

    def _lacking(self, trainer: Trainer) -> list[str] | None:
        """What the run has logged so far, if the metric is not among it; equal in all processes."""
        names: set[str] = set()
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger) and trainer.is_global_zero:
                names.update(logger.experiment.metrics_keys, *logger.experiment.metrics)
        lacking = None if self.name in names else sorted(filter(is_metric, names))
        return trainer.strategy.broadcast(lacking)


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "no metrics"
