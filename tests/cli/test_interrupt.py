"""Ctrl-C ends a run cleanly, and the command that it prints goes on to what an uninterrupted run reaches."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.support.fits import assert_equal
from tests.support.runs import done, files, metrics
from ts_lightning import interrupt
from ts_lightning.cli.main import main

ROOT = Path(__file__).parents[2]
#: an epoch is one batch, since Lightning begins an interrupted epoch with its first batch again
POINTS = ["--data", "tests.cli.plain.Points", "--data.batch_size", "64"]
RUN = ["fit", *POINTS, "--target_space.reference.size", "20", "--trainer.max_epochs", "12"]
QUIET = ["--trainer.accelerator", "cpu", "--trainer.log_every_n_steps", "1", "--trainer.enable_progress_bar", "false"]


def waiting(flag):
    return ["--model", "tests.cli.plain.Waiting", "--model.flag", str(flag)]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run that got Ctrl-C in its sixth epoch: folder, exit code and what it printed."""
    folder = tmp_path_factory.mktemp("interrupted")
    flag = folder / "flag"
    command = [sys.executable, "-m", "ts_lightning", *RUN, *QUIET, *waiting(flag), "--out", str(folder / "run")]
    started = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a program that was started in the background hands on that it ignores Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        while not flag.exists() and started.poll() is None:
            time.sleep(0.1)
        started.send_signal(signal.SIGINT)
        out, err = started.communicate(timeout=120)
    finally:
        started.kill()
    return folder, started.returncode, out, err


def test_it_ends_cleanly_with_a_table_a_checkpoint_and_exit_code_130(interrupted):
    folder, code, out, err = interrupted
    assert code == 130, err
    assert "Traceback" not in err
    assert "Waiting, target space: interrupted after 5 steps" in out
    assert {"config.yaml", "last.ckpt", "metrics.csv", "figure.png", "report.html", "summary.json"} <= files(
        folder / "run"
    )
    checkpoint = torch.load(folder / "run" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 5
    assert "target_space" in checkpoint


def test_the_printed_command_goes_on_to_the_same_result_as_without_interruption(interrupted, tmp_path):
    folder, _, out, _ = interrupted
    resume = re.search(r"^resume +(.*)$", out, re.MULTILINE)[1]
    program, *options = shlex.split(resume)
    assert program == "ts-lightning"
    done(main, *options, "--out", tmp_path / "resumed", drawn=False)
    (tmp_path / "flag").touch()
    done(main, *RUN, *QUIET, *waiting(tmp_path / "flag"), "--out", tmp_path / "whole", drawn=False)
    whole, resumed = (torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("whole", "resumed"))
    assert resumed["global_step"] == whole["global_step"] == 12
    assert_equal(resumed["state_dict"], whole["state_dict"])
    assert_equal(resumed["target_space"]["targets"], whole["target_space"]["targets"])
    losses = metrics(tmp_path / "whole", "train/loss")
    assert metrics(folder / "run", "train/loss") + metrics(tmp_path / "resumed", "train/loss") == losses


PROGRAMS = {"module": ["-m", "ts_lightning"], "recipe": ["-m", "ts_lightning.recipes.two_spirals"]}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_ctrl_c_while_a_program_imports_what_it_needs_is_no_traceback(program, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(  # a Ctrl-C when torch is imported, which takes the longest
        "import os, signal, sys\n"
        "class Early:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'torch':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Early())\n"
    )
    ended = subprocess.run(
        [sys.executable, *program, "fit", "--help"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_only_a_program_of_this_package_answers_ctrl_c_otherwise(monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for argv, words, answers in [
            (["x.py"], ["python", "x.py"], False),
            (["-m"], ["python", "-m", "pytest"], False),
            ([], ["python"], False),
            (["-m", "fit"], ["python", "-X", "dev", "-m", "ts_lightning.recipes.rnn_bits", "fit"], True),
            (["/bin/ts-lightning", "fit"], ["python", "/bin/ts-lightning", "fit"], True),
        ]:
            monkeypatch.setattr(sys, "argv", argv)
            monkeypatch.setattr(sys, "orig_argv", words)
            interrupt.end_quietly()
            assert (signal.getsignal(signal.SIGINT) is not signal.default_int_handler) == answers, words
            interrupt.as_usual()
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
