"""What training adds to a process is measured, and not what the process held before."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.support.fits import Lit, fit
from tests.support.processes import run
from ts_lightning.cli.memory import TrainingMemory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peak can be set back on Linux alone")


def added():
    """Bytes that this process grew by while it watched; it held 200 MB before, and 320 MB were freed again."""
    before = np.ones(25_000_000)
    watched = TrainingMemory()
    watched.setup(SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu"))), None, "fit")
    during = np.ones(40_000_000)
    del during
    peak = watched.peak
    del before
    return peak


def test_what_is_held_before_does_not_count_and_what_is_freed_does():
    assert 300e6 < run(added)[0] < 400e6


def test_it_is_measured_in_a_fit():
    watched = TrainingMemory()
    assert watched.peak is None
    fit(Lit(), callbacks=[watched])
    assert watched.peak >= 0
