"""``--ckpt_path`` with checkpoints that no command of this package wrote, and with files of tensors that are none."""

import re
import shlex
import warnings

import pytest
import torch
from lightning.pytorch import Trainer

from tests.cli.plain import Net, Points
from tests.support.runs import done, metrics, mistake
from ts_lightning import convert
from ts_lightning.cli.main import main

NET = ["--model", "tests.cli.plain.Net", "--data", "tests.cli.plain.Points", "--trainer.accelerator", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of a program of the user's own, and of PyTorch."""
    folder = tmp_path_factory.mktemp("own")
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=1, accelerator="cpu", enable_model_summary=False, **quiet)
    trainer.fit(Net(width=5), datamodule=Points())
    trainer.save_checkpoint(folder / "whole.ckpt")
    trainer.save_checkpoint(folder / "weights.ckpt", weights_only=True)
    torch.save(Net().state_dict(), folder / "state_dict.pt")
    torch.save({"state_dict": Net().state_dict(), "epoch": 3}, folder / "wrapped.pt")
    torch.save(torch.zeros(3), folder / "tensor.pt")
    return folder


@pytest.mark.parametrize("file", ["whole.ckpt", "weights.ckpt"])
@pytest.mark.parametrize("width", [[], ["--model.width", "7"]], ids=["its width", "another width"])
def test_one_of_a_program_of_ones_own_is_measured(file, width, folder, tmp_path):
    """Its hyperparameters name no class: they were refused, with "Expected one of ."."""
    ended = done(main, "test", *NET, *width, "--ckpt_path", folder / file, "--out", tmp_path / "out")
    assert ("--model.width 5 in place of 7." in ended.err) == bool(width)
    model = Net.load_from_checkpoint(folder / file)
    quiet = {"logger": False, "enable_progress_bar": False}
    (expected,) = Trainer(accelerator="cpu", **quiet).test(model, datamodule=Points(), verbose=False)
    assert metrics(tmp_path / "out", "test/loss") == pytest.approx([expected["test/loss"]])


@pytest.mark.filterwarnings("ignore")
def test_a_fit_goes_on_from_one_of_a_program_of_ones_own(folder, tmp_path):
    more = ["--target_space", "{}", "--trainer.max_epochs", "2", "--ckpt_path", folder / "whole.ckpt"]
    ended = done(main, "fit", *NET, *more, "--out", tmp_path / "out", drawn=False)
    before = torch.load(folder / "whole.ckpt", weights_only=True)
    after = torch.load(tmp_path / "out" / "last.ckpt", weights_only=True)
    assert "start from the weights" in ended.err + ended.out
    assert after["global_step"] == 2 * before["global_step"]
    assert after["hyper_parameters"]["width"] == 5


NONE = {
    "state_dict.pt": "state_dict",
    "wrapped.pt": "pytorch-lightning_version",
    "tensor.pt": "state_dict",
}


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize(("file", "without"), NONE.items())
def test_a_file_of_tensors_that_is_none_is_said_in_one_line(command, file, without, folder, tmp_path):
    error = mistake(main, command, *NET, "--ckpt_path", folder / file, "--out", tmp_path / "out")
    assert f"'{folder / file}': found no {without} in it; expected a Lightning checkpoint" in error
    assert not (tmp_path / "out").exists()


def test_a_fit_does_not_go_on_from_weights_alone(folder, tmp_path):
    error = mistake(main, "fit", *NET, "--ckpt_path", folder / "weights.ckpt", "--out", tmp_path / "out")
    assert "found no optimizer_states in it; expected a Lightning checkpoint, as last.ckpt of a run." in error
    assert not (tmp_path / "out").exists()


def test_a_program_of_ones_own_goes_on_from_one_of_a_command(tmp_path):
    """Lightning asked for a callback of the command line by its name."""
    options = ["--trainer.max_epochs", "1", "--target_space", "{}", "--out", tmp_path / "out"]
    done(main, "fit", *NET, *options, drawn=False)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=2, accelerator="cpu", enable_model_summary=False, **quiet)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trainer.fit(convert(Net()), datamodule=Points(), ckpt_path=tmp_path / "out" / "last.ckpt")
    assert [str(one.message) for one in said if "callbacks" in str(one.message)] == []
    assert trainer.global_step == 8


LIMITS = {
    "--trainer.max_steps and --trainer.max_epochs": ["--trainer.max_steps", "3", "--trainer.max_epochs", "1"],
    "--trainer.max_epochs": ["--trainer.max_steps", "999", "--trainer.max_epochs", "1"],
    "--trainer.max_time": ["--trainer.max_time", "00:00:00:01", "--trainer.max_epochs", "-1"],
}


@pytest.mark.parametrize(("reached", "limits"), LIMITS.items(), ids=LIMITS)
def test_the_command_to_resume_that_a_finished_run_prints_trains_on(reached, limits, tmp_path):
    """It gave twice the steps alone, and nothing was trained where epochs or time had ended the run as well."""
    ended = done(main, "fit", *NET, *limits, "--out", tmp_path / "run", drawn=False)
    _, *options = shlex.split(re.search(r"^resume +(.*)$", ended.out, re.MULTILINE)[1])
    again = done(main, *options, "--out", tmp_path / "more", drawn=False)
    assert "nothing was trained" not in again.err
    steps = [torch.load(tmp_path / name / "last.ckpt", weights_only=True)["global_step"] for name in ("run", "more")]
    assert steps[0] < steps[1]
    same = options[: options.index("--ckpt_path") + 2]
    assert f"Expected a larger {reached}." in done(main, *same, "--out", tmp_path / "none", drawn=False).err
