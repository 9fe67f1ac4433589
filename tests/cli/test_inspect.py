"""``ts-lightning inspect``: the table that ``fit`` would begin with, without training or files."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from tests.support.runs import done, mistake, program
from ts_lightning.cli.main import main

ROOT = Path(__file__).parents[2]
POINTS = ["--model", "tests.cli.plain.Net", "--data", "tests.cli.plain.Points"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_table_from_a_config_and_no_file(folder):
    settings = {
        "model": {"class_path": "tests.cli.plain.Net", "init_args": {"width": 6}},
        "data": {"class_path": "tests.cli.plain.Points"},
        "target_space": {"reference": {"size": 12}, "exclude": ["net.2"]},
        "trainer": {"max_epochs": 3, "min_epochs": 2, "accelerator": "cpu"},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    ended = program(main, "inspect", "--config", "run.yaml")
    assert ended.code == 0, str(ended)
    assert "Net: 1 layer solved, 63.2 % of 38 trainable parameters; 12 reference samples" in ended.out
    assert re.search(r"^net\.0 +nn\.Linear +yes +12 +4 +6 +primal +288 B +100 %$", ended.out, re.MULTILINE)
    assert re.search(r"^net\.2 +nn\.Linear +no: excluded$", ended.out, re.MULTILINE)
    assert [path.name for path in folder.iterdir()] == ["run.yaml"]


def test_options_of_fit_are_options_here():
    ended = program(main, "inspect", *POINTS, "--target_space.ridge", "2", "--trainer.accelerator", "cpu")
    assert ended.code == 0, str(ended)
    assert "Net: 2 layers solved, 100.0 %" in ended.out
    assert "times the multiplications of weight space, with batches of " in ended.out


def test_nothing_is_said_of_a_training_that_does_not_follow(folder):
    command = [sys.executable, "-m", "ts_lightning", "inspect", *POINTS, "--target_space", "{}"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    ended = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": path})
    assert [line for line in ended.stderr.splitlines() if not line.startswith("Target space: 2 of 2 layers")] == []
    assert ended.stdout.startswith("\nNet: 2 layers solved")


def test_the_callbacks_of_a_checkpoint_are_not_asked_for(folder):
    """Lightning asks for those of a fit that a checkpoint has states of; an inspection has none of them."""
    fit = ["--target_space", "{}", "--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--out", "run"]
    done(main, "fit", *POINTS, *fit, "--trainer.callbacks+=Timer", drawn=False)
    assert "Timer" in torch.load("run/last.ckpt", weights_only=True)["callbacks"]
    ended = program(main, "inspect", *POINTS, *fit[:4], "--ckpt_path", "run/last.ckpt")
    assert ended.code == 0, str(ended)
    assert "callbacks" not in ended.err
    assert "Net: 2 layers solved" in ended.out


OPTIONS = {"weight": ["--target_space", "null"], "no step": ["--target_space.ridge", "1", "--trainer.max_steps", "0"]}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_without_target_space_there_is_nothing_to_inspect(options):
    error = mistake(main, "inspect", *POINTS, "--trainer.accelerator", "cpu", *options)
    assert "inspect: found no target space" in error


def test_what_is_refused_in_fit_is_refused_here():
    error = mistake(main, "inspect", *POINTS, "--trainer.accelerator", "cpu", "--target_space.layers", "[nothing]")
    assert "layers: 'nothing' matches no layer" in error


def test_its_help():
    ended = program(main, "inspect", "--help")
    assert ended.code == 0
    text = " ".join(ended.out.split())
    assert text.startswith("usage: ts-lightning inspect")
    assert "Nothing is trained or written. Options of fit are options here, too" in text
