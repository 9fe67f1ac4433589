"""The file of a run's metrics, from which table and figures are drawn."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter


def with_csv(asked: Logger | list[Logger] | bool | None, folder: Path) -> list[Logger] | bool:
    """The loggers that were asked for, and before them the one that figures are drawn from."""
    if asked is False:
        return False
    own = MetricsFile(folder, name="", version="")
    if isinstance(asked, list):
        return [own, *asked]
    return [own, asked] if isinstance(asked, Logger) else [own]


class MetricsFile(CSVLogger):
    """Lightning's, which goes on with the file that an earlier process of the run has begun.

    The processes of ``ddp_spawn`` are others for a test than for the fit before it. Lightning's takes the file away.
    """

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """What writes the file."""
        if self._experiment is None:
            self._experiment = _Writer(self.log_dir)
        return self._experiment


class _Writer(ExperimentWriter):
    def _check_log_dir_exists(self) -> None:
        """Take the columns of a file that is there, in the place of the file."""
        if Path(self.metrics_file_path).is_file():
            with open(self.metrics_file_path, newline="", encoding="utf-8") as file:
                self.metrics_keys = next(csv.reader(file), [])
