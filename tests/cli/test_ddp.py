"""Two processes by ``--trainer.strategy ddp --trainer.devices 2``: one run folder, one table.

Those of ``ddp_spawn`` end with the fit: what they reached is brought to the process that prints the table.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.processes import LONGEST, free_port
from tests.support.runs import FILES, files, metrics
from ts_lightning.cli.metrics_file import with_csv

ROOT = Path(__file__).parents[2]


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gloo on Linux and macOS")


def trained(tmp_path, strategy, *options, module="tests.cli.solved.Solved"):
    """The process that has trained such a module in two processes."""
    command = [sys.executable, "-m", "ts_lightning", "fit", "--model", module]
    command += ["--data", "tests.cli.plain.Points", "--trainer.strategy", strategy, "--trainer.devices", "2"]
    command += ["--trainer.accelerator", "cpu", "--trainer.log_every_n_steps", "1"]
    command += ["--trainer.enable_progress_bar", "false", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MASTER_PORT": str(free_port())}
    return subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=LONGEST, check=False
    )


@pytest.mark.parametrize("strategy", ["ddp", "ddp_spawn"])
def test_two_processes_leave_one_folder_and_one_table(tmp_path, strategy):
    ended = trained(tmp_path, strategy, "--trainer.max_epochs", "1")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("Solved, target space: done after 2 steps") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    (folder,) = (tmp_path / "runs" / "ts_lightning").iterdir()
    assert files(folder) == FILES
    assert len(metrics(folder, "train/loss")) == 2
    targets = torch.load(folder / "last.ckpt", weights_only=True)["target_space"]["targets"]
    assert {len(target) for target in targets.values()} == {20}  # whole, of both processes
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["steps"] == 2
    assert summary["seconds"] >= summary["step_seconds"] > 0
    assert (summary["peak_memory"] is not None) == (sys.platform == "linux")
    assert "2 processes" in summary["extra"]["hardware"]
    assert "20 reference samples" in summary["extra"]["target space"]
    assert "--trainer.max_epochs 2" in summary["extra"]["resume"]


def test_what_spawned_processes_have_reached_before_an_error_is_kept(tmp_path):
    ended = trained(tmp_path, "ddp_spawn", "--trainer.max_epochs", "3", module="tests.cli.solved.Failing")
    assert ended.returncode == 1, ended.stderr
    assert "Failing, target space: failed after 4 steps" in ended.stdout  # those of the epochs before
    assert "This happened" not in ended.stderr  # of whose place the first process knows nothing
    (folder,) = (tmp_path / "runs" / "ts_lightning").iterdir()
    assert files(folder) == FILES


def test_a_later_process_goes_on_with_the_metrics_of_a_run(tmp_path):
    """As a test behind a fit, in the processes of ``ddp_spawn``: Lightning's logger would begin the file anew."""
    for step, found in enumerate([{"loss": 3.0}, {"loss": 2.0, "accuracy": 0.5}]):
        (logger,) = with_csv(None, tmp_path)
        logger.log_metrics(found, step)
        logger.save()
    assert metrics(tmp_path, "loss") == [3.0, 2.0]
    assert metrics(tmp_path, "accuracy") == [0.5]
