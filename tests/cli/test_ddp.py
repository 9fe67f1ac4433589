"""Two processes by ``--trainer.strategy ddp --trainer.devices 2``: one run folder, one table."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.processes import LONGEST, free_port
from tests.support.runs import FILES, files, metrics

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(sys.platform == "win32", reason="gloo on Linux and macOS")
def test_two_processes_leave_one_folder_and_one_table(tmp_path):
    command = [sys.executable, "-m", "ts_lightning", "fit", "--model", "tests.cli.solved.Solved"]
    command += ["--data", "tests.cli.plain.Points", "--trainer.strategy", "ddp", "--trainer.devices", "2"]
    command += ["--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--trainer.log_every_n_steps", "1"]
    command += ["--trainer.enable_progress_bar", "false"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MASTER_PORT": str(free_port())}
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=LONGEST, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("Solved, target space: done after 2 steps") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    (folder,) = (tmp_path / "runs" / "ts_lightning").iterdir()
    assert files(folder) == FILES
    assert len(metrics(folder, "train/loss")) == 2
    targets = torch.load(folder / "last.ckpt", weights_only=True)["target_space"]["targets"]
    assert {len(target) for target in targets.values()} == {20}  # whole, of both processes
