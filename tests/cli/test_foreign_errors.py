"""What torch, W&B, YAML and the disk refuse is a user's mistake, said in one line, with exit code 2."""

import errno
import os

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from tests.cli.plain import Net, Points
from tests.support.runs import done, mistake, program
from ts_lightning.cli.causes import of_a_disk, of_a_setting
from ts_lightning.cli.main import main

NET = ["--model", "tests.cli.plain.Net", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
POINTS = [*NET, "--data", "tests.cli.plain.Points"]
FIT = ["fit", *POINTS, "--trainer.max_epochs", "1"]
SGD = ["--optimizer", "torch.optim.SGD", "--optimizer.lr"]
RESTARTS = "torch.optim.lr_scheduler.CosineAnnealingWarmRestarts"


class Empty(Points):
    """No samples, which a loader shuffles."""

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.empty(0, 3), torch.empty(0)), shuffle=True)


CASES = {
    "rate of the option": ([*FIT, *SGD, "-1"], "The optimizer cannot be made: Invalid learning rate: -1.0."),
    "rate of the module": ([*FIT, "--model.lr", "-1"], "plain.py, line 46): Invalid learning rate: -1.0."),
    "betas": ([*FIT, "--optimizer", "Adam", "--optimizer.betas", "[2, 1]"], "Invalid beta parameter at index 0: 2.0."),
    "schedule": (
        [*FIT, *SGD, "0.1", "--lr_scheduler", RESTARTS, "--lr_scheduler.T_0", "0"],
        "The schedule cannot be made: Expected positive integer T_0, but got 0.",
    ),
    "batch size": ([*FIT, "--data.batch_size", "0"], "batch_size should be a positive integer value, but got"),
    "no samples": (
        ["fit", *NET, "--data", f"{__name__}.Empty", "--trainer.max_epochs", "1"],
        "its data set is empty, and it shuffles. Expected data with at least one sample.",
    ),
}


@pytest.mark.parametrize(("options", "said"), CASES.values(), ids=CASES)
def test_what_torch_refuses_to_make_is_said_in_one_line(options, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = program(main, *options)  # whose warnings may be more than a mistake's lines
    assert ended.code == 2, str(ended)
    assert said in ended.err.splitlines()[-1]
    assert "Traceback" not in ended.err


def test_an_error_of_a_users_own_module_is_left_to_its_traceback():
    with pytest.raises(ValueError, match="no such luck") as caught:
        raise ValueError("no such luck")
    assert of_a_setting(caught.value) is None


DISK = ": full. Expected a disk with room for it; that of a run is --out FOLDER."


@pytest.mark.parametrize("file", ["x.csv", None])
@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, DISK),
        (errno.EROFS, DISK),
        (errno.EACCES, None),
        (errno.ENOENT, None),
    ],
)
def test_a_disk_on_which_nothing_can_be_written_is_named_with_the_line_that_wrote(number, said, file):
    with pytest.raises(OSError, match="full") as caught:
        raise OSError(number, "full", file)
    found = of_a_disk(caught.value)
    if said is None:
        assert found is None
    else:
        assert found.startswith("'x.csv' cannot be written (" if file else "A file cannot be written (")
        assert "test_foreign_errors.py, line " in found
        assert found.endswith(said)


def test_a_folder_that_takes_no_files_is_said_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    assert "no file can be written in it" in mistake(main, *FIT, "--out", tmp_path / "run")


def test_a_mode_that_wandb_does_not_know_is_named(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "bogus")
    error = mistake(main, *FIT, "--trainer.logger", "WandbLogger")
    wandb.teardown()  # which would keep the mode for the next run of the process
    assert "W&B did not begin the run (WANDB_MODE=bogus: " in error


YAMLS = {
    "bracket": (b"trainer: {max_epochs: 1\nmodel: [\n", ", line 2: "),
    "tab": (b"trainer:\n\tmax_epochs: 1\n", ", line 2: found character"),
    "alias": (b"model: {class_path: *b}\n", ", line 1: found undefined alias"),
    "two documents": (b"model: x\n---\nmodel: x\n", ", line 2: but found another document"),
    "list": (b"- 1\n- 2\n", ": found a list."),
    "bytes": (b"\xff\xfe\x00", ": found a byte that is not UTF-8."),
}


@pytest.mark.parametrize("command", ["fit", "compare"])
@pytest.mark.parametrize(("content", "said"), YAMLS.values(), ids=YAMLS)
def test_a_broken_yaml_is_named(content, said, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_bytes(content)
    error = mistake(main, command, "--config", "run.yaml")
    assert f"--config run.yaml{said}" in error
    assert "unicode string" not in error


def test_a_text_that_looks_like_a_date_is_a_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "model: tests.cli.plain.Net\ndata: tests.cli.plain.Points\nout: 2026-02-30\n"
    (tmp_path / "run.yaml").write_text(text)
    (tmp_path / "trainer.yaml").write_text("trainer: {max_epochs: 3}\n")
    ended = program(main, "fit", "--config", "run.yaml", "--config", "trainer.yaml", "--print_config")
    assert ended.code == 0, str(ended)
    assert "out: '2026-02-30'" in ended.out
    assert "max_epochs: 3" in ended.out


class Lone(Net):
    """Its optimizer trains a parameter of no layer."""

    def __init__(self):
        super().__init__()
        self.lone = torch.nn.Parameter(torch.zeros(()))

    def configure_optimizers(self):
        return torch.optim.SGD([self.lone], lr=0.1)


def test_inspect_says_that_optimizers_train_no_layer():
    ended = program(main, "inspect", *POINTS, "--model", f"{__name__}.Lone", "--target_space", "{}")
    assert "its optimizers train no layer that can be solved" in ended.err
    assert ended.code == 2


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    done(main, *FIT, "--target_space.until", "2", "--out", folder, drawn=False)
    done(main, *FIT, "--target_space", "{}", "--out", folder.with_name("whole"), drawn=False)
    return folder


INSPECTED = {
    "finished": (["--ckpt_path", "whole"], "2 layers solved"),
    "no epochs": (["--trainer.max_epochs", "0"], "there is no step to train."),
    "no steps": (["--trainer.max_steps", "0"], "there is no step to train."),
    "no batches": (["--trainer.limit_train_batches", "0"], "there is no step to train."),
    "weight space": (["--target_space", "null"], "the module trains in weight space"),
    "ended": (["--ckpt_path", "run", "--target_space.until", "2"], "it has ended at step 2 (until)"),
}


@pytest.mark.parametrize(("options", "said"), INSPECTED.values(), ids=INSPECTED)
def test_inspect_takes_a_finished_checkpoint_and_says_why_there_is_no_target_space(options, said, finished):
    options = [str(finished.with_name(word) / "last.ckpt") if word in ("run", "whole") else word for word in options]
    ended = program(main, "inspect", *POINTS, "--trainer.max_epochs", "1", "--target_space", "{}", *options)
    assert said in ended.out + ended.err
    assert "Traceback" not in ended.err
