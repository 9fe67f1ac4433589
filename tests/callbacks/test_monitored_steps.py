"""TargetSpaceMonitor observes the steps that are logged, and no others."""

import csv

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger

from tests.support.fits import Lit, build, fit, loader
from tests.support.manual import Manual
from ts_lightning import TargetSpaceMonitor


def rows_with_values(folder):
    with open(folder / "metrics.csv") as file:
        return [int(row["step"]) + 1 for row in csv.DictReader(file) if row["target_space/residual/net.0"]]


@pytest.mark.parametrize(
    ("options", "monitor", "steps"),
    [
        ({}, TargetSpaceMonitor(), [50, 250]),  # the defaults of both
        ({"log_every_n_steps": 10}, TargetSpaceMonitor(50), [10, 60, 110, 160, 210, 260]),
        ({"log_every_n_steps": 50}, TargetSpaceMonitor(10), [50, 100, 150, 200, 250]),
    ],
)
def test_observed_steps_are_logged_and_no_others(options, monitor, steps, tmp_path):
    class Logging(Lit):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.log("loss", loss)
            return loss

    logger = CSVLogger(tmp_path, "", "")
    fit(build(Logging), loader(4), max_epochs=-1, max_steps=260, logger=logger, callbacks=[monitor], **options)
    assert rows_with_values(tmp_path) == steps


def test_manual_optimisation_that_steps_between_logged_batches(tmp_path):
    class Seldom(Manual):
        def training_step(self, batch, batch_idx):
            self.manual_backward(self.loss(batch))
            if batch_idx % 4 == 2:
                self.optimizers().step()
                self.optimizers().zero_grad()

    logger = CSVLogger(tmp_path, "", "")
    fit(build(Seldom), loader(4), logger=logger, callbacks=[TargetSpaceMonitor(1)], log_every_n_steps=4)
    assert rows_with_values(tmp_path) == [8, 16, 24, 32]


def test_of_two_monitors_the_last_one_observes_and_that_is_said_once(tmp_path, monkeypatch):
    """A recipe brings a monitor, and one that the user added to it ended the fit with a KeyError."""
    said = []
    monkeypatch.setattr("ts_lightning.callbacks.monitor.rank_zero_warn", said.append)
    callbacks = [TargetSpaceMonitor(1), TargetSpaceMonitor(4)]
    logger = CSVLogger(tmp_path, "", "")
    fit(build(Lit), loader(4), max_epochs=-1, max_steps=10, log_every_n_steps=2, logger=logger, callbacks=callbacks)
    assert rows_with_values(tmp_path) == [2, 6, 10]
    assert len(said) == 1
    assert "every_n_steps=1) does nothing" in said[0]
    assert "every_n_steps=4" in said[0]


def test_steps_between_observations_may_be_a_number_of_numpys():
    assert type(TargetSpaceMonitor(np.int64(4)).every_n_steps) is int
    for steps in (np.int64(0), np.array([1, 2]), 2.0):
        with pytest.raises(ValueError, match="expected a whole number above 0"):
            TargetSpaceMonitor(steps)
