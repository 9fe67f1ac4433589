"""What training adds to a process is measured, and not what the process held before."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fits import Lit, fit
from ts_lightning.cli.memory import TrainingMemory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peak can be set back on Linux alone")
ROOT = Path(__file__).parents[2]


def added(during):
    """Bytes that a fit added in a process of its own, which held 200 MB before it."""
    code = f"""
import numpy as np
from types import SimpleNamespace
import torch
from ts_lightning.cli.memory import TrainingMemory
before = np.ones(25_000_000)  # 200 MB
watched = TrainingMemory()
watched.setup(SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu"))), None, "fit")
{during}
print(watched.peak)
"""
    return int(
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True).stdout
    )


def test_what_is_held_before_does_not_count_and_what_is_freed_does():
    assert 300e6 < added("during = np.ones(40_000_000); del during") < 400e6  # 320 MB


def test_it_is_measured_in_a_fit():
    watched = TrainingMemory()
    assert watched.peak is None
    fit(Lit(), callbacks=[watched])
    assert watched.peak >= 0
