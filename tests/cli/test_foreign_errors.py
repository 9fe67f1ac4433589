"""What torch, W&B, YAML and the disk refuse is a user's mistake, said in one line, with exit code 2."""

import errno
import io
import os

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from tests.cli.plain import Net, Points
from tests.support.runs import done, mistake, program
from ts_lightning.cli.main import main
from ts_lightning.cli.refused import of_a_disk, of_a_setting, said

NET = ["--model", "tests.cli.plain.Net", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
POINTS = [*NET, "--data", "tests.cli.plain.Points"]
FIT = ["fit", *POINTS, "--trainer.max_epochs", "1"]
SGD = ["--optimizer", "torch.optim.SGD", "--optimizer.lr"]
RESTARTS = "torch.optim.lr_scheduler.CosineAnnealingWarmRestarts"


class Empty(Points):
    """No samples, which a loader shuffles."""

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.empty(0, 3), torch.empty(0)), shuffle=True)


def python_says():
    """Python's words for a modulus of zero, which differ between its versions."""
    with pytest.raises(ZeroDivisionError) as found:
        _ = 1 % 0
    return found.value


ZERO = f"The schedule cannot make its step: {python_says()}, by "
CYCLIC = ["--lr_scheduler.base_lr", "0.1", "--lr_scheduler.max_lr", "0.2", "--lr_scheduler.step_size_up", "0"]
CASES = {
    "schedule's step": (
        [*FIT, *SGD, "0.1", "--lr_scheduler", "StepLR", "--lr_scheduler.step_size", "0"],
        f"{ZERO}StepLR(step_size=0, gamma=0.1, ",
    ),
    "schedule's period": (
        [*FIT, *SGD, "0.1", "--lr_scheduler", "CosineAnnealingLR", "--lr_scheduler.T_max", "0"],
        f"{ZERO}CosineAnnealingLR(T_max=0, ",
    ),
    "schedule's first step": ([*FIT, *SGD, "0.1", "--lr_scheduler", "CyclicLR", *CYCLIC], ", step_size_up=0.0, "),
    "history": (
        [*FIT, "--optimizer", "LBFGS", "--optimizer.history_size", "0"],
        "The optimizer cannot make its step: pop from empty list, by LBFGS(lr=1.0, max_iter=20, ",
    ),
    "dense gradients": (
        [*FIT, "--optimizer", "SparseAdam"],
        "The optimizer cannot make its step: SparseAdam does not support dense gradients, please consider Adam instead",
    ),
    "width": ([*FIT, "--model.width", "-1"], "plain.py, line 24): Trying to create tensor with negative dimension -1"),
    "batches": ([*FIT, "--trainer.val_check_interval", "100"], "`val_check_interval` (100) must be less than or equal"),
    "seed": ([*FIT, "--seed_everything", "-1"], "--seed_everything: -1 is not in bounds, numpy accepts from 0 to"),
    "devices": ([*FIT, "--trainer.devices", "1.5"], "--trainer: `devices` selected with `CPUAccelerator` should be"),
    "threads": ([*FIT, "--threads", "100000"], "--threads: found 100000; expected a number at least 1 and below 1025."),
    "accumulation": ([*FIT, "--trainer.accumulate_grad_batches", "0"], "found 0; expected a number at least 1."),
    "interval": ([*FIT, "--trainer.val_check_interval", "0"], "found 0; expected a number above 0."),
    "epochs": ([*FIT, "--trainer.check_val_every_n_epoch", "0"], "found 0; expected a number at least 1."),
    "clipping": ([*FIT, "--trainer.gradient_clip_val", "-1"], "found -1; expected a number at least 0."),  # turns round
    "logging": ([*FIT, "--trainer.log_every_n_steps", "-1"], "found -1; expected a number at least 0."),
    "sanity check": ([*FIT, "--trainer.num_sanity_val_steps", "-3"], "found -3; expected a number at least -1."),
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


@pytest.mark.parametrize(("options", "expected"), CASES.values(), ids=CASES)
def test_what_torch_refuses_to_make_is_said_in_one_line(options, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = program(main, *options)  # whose warnings may be more than a mistake's lines
    assert ended.code == 2, str(ended)
    assert expected in ended.err.splitlines()[-1]
    assert "Traceback" not in ended.err


def test_an_error_of_a_users_own_module_is_left_to_its_traceback():
    with pytest.raises(ValueError, match="no such luck") as caught:
        raise ValueError("no such luck")
    assert of_a_setting(caught.value) is None


DISK = ": full. Expected a disk with room for it; that of a run is --out FOLDER."


@pytest.mark.parametrize("file", ["x.csv", None])
@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, DISK),
        (errno.EROFS, DISK),
        (errno.EACCES, None),
        (errno.ENOENT, None),
    ],
)
def test_a_disk_on_which_nothing_can_be_written_is_named_with_the_line_that_wrote(number, expected, file):
    with pytest.raises(OSError, match="full") as caught:
        raise OSError(number, "full", file)
    found = of_a_disk(caught.value)
    if expected is None:
        assert found is None
    else:
        assert found.startswith("'x.csv' cannot be written (" if file else "A file cannot be written (")
        assert "test_foreign_errors.py, line " in found
        assert found.endswith(expected)


def test_a_seed_of_the_environment_that_is_none_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "many")
    error = mistake(main, *FIT, "--seed_everything", "true")
    assert "--seed_everything: Invalid seed specified via PL_GLOBAL_SEED: 'many'." in error


class Full(io.BytesIO):
    """A file on a disk with room for less than torch.save writes."""

    name = "x.pt"

    def write(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_said_whoever_writes():
    with pytest.raises((OSError, RuntimeError)) as caught:  # Python's, or torch's own about it
        torch.save({"x": torch.zeros(100_000)}, Full())
    assert "cannot be written (" in of_a_disk(caught.value)
    with pytest.raises(RuntimeError) as caught:  # what torch makes of a full disk itself
        torch.save(Unsaved(), io.BytesIO())
    assert "A file cannot be written (" in of_a_disk(caught.value)
    assert "PyTorch could not write all of it" in of_a_disk(caught.value)

    class SafetensorError(Exception):
        """What safetensors raises, which has no number of an error."""

    error = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert of_a_disk(error).startswith("A file cannot be written: No space left on device. ")
    assert of_a_disk(SafetensorError("InvalidHeader")) is None


class Unsaved:
    """Fails in torch.save with the words that torch has for a file that it cannot end."""

    def __reduce__(self):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")


def test_an_error_of_a_forward_is_left_to_its_traceback():
    with pytest.raises(RuntimeError, match="multiplied") as caught:
        torch.nn.Linear(2, 3)(torch.zeros(4, 5))
    assert said(caught.value) is None


def test_a_value_that_a_module_gives_lightning_is_left_to_its_traceback(tmp_path):
    options = ["--model", f"{__name__}.Words", "--trainer.num_sanity_val_steps", "0", "--out", str(tmp_path / "run")]
    with pytest.raises(ValueError, match="cannot be logged"):
        main([*FIT, *options])


class Words(Net):
    """Logs a text, which Lightning refuses."""

    def training_step(self, batch, batch_idx):
        self.log("train/loss", "low")


def test_a_folder_that_takes_no_files_is_said_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    assert "no file can be written in it" in mistake(main, *FIT, "--out", tmp_path / "run")


def test_a_mode_that_wandb_does_not_know_is_named(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    wandb.teardown()  # which has kept the mode of an earlier run of the process
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


@pytest.mark.parametrize("command", ["fit", "compare", "inspect"])
@pytest.mark.parametrize(("content", "expected"), YAMLS.values(), ids=YAMLS)
def test_a_broken_yaml_is_named(content, expected, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_bytes(content)
    error = mistake(main, command, "--config", "run.yaml")
    assert error.startswith(f"ts-lightning {command}: error: ")
    assert f"--config run.yaml{expected}" in error
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


@pytest.mark.parametrize(("options", "expected"), INSPECTED.values(), ids=INSPECTED)
def test_inspect_takes_a_finished_checkpoint_and_says_why_there_is_no_target_space(options, expected, finished):
    options = [str(finished.with_name(word) / "last.ckpt") if word in ("run", "whole") else word for word in options]
    ended = program(main, "inspect", *POINTS, "--trainer.max_epochs", "1", "--target_space", "{}", *options)
    assert expected in ended.out + ended.err
    assert "Traceback" not in ended.err
