"""Settings and checkpoints that are lost without a word, or end in Lightning's traceback, are said in one line."""

import io
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule

from tests.cli.plain import Net
from tests.support.runs import done, files, mistake, program
from ts_lightning.cli.main import main
from ts_lightning.cli.program import run

SHORT = ["--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]
FIT = ["fit", "--model", "tests.cli.plain.Net", "--data", "tests.cli.plain.Points", *SHORT]
HEAD = "model: tests.cli.plain.Net\ndata: tests.cli.plain.Points\n"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


YAMLS = {
    "group twice": ("model: a.B\n" + HEAD, "--config run.yaml, line 1: found 'model' twice in one group"),
    "argument twice": (HEAD + "trainer:\n  max_epochs: 1\n  max_epochs: 2\n", "line 4: found 'max_epochs' twice"),
    "in a list": (
        HEAD + "trainer:\n  callbacks:\n  - class_path: ModelSummary\n    class_path: Timer\n",
        "line 5: found 'class_path' twice in one group; expected it once.",
    ),
    "old callback": (
        HEAD + "trainer: {callbacks: [TargetSpaceMonitor, {class_path: ts_lightning.callbacks.Old}]}\n",
        "--trainer.callbacks ts_lightning.callbacks.Old: ts_lightning.callbacks has no 'Old'. Expected a Callback.",
    ),
    "misspelt callback": (
        HEAD + "trainer: {callbacks: [{class_path: TargetSpaceMonitor}, {class_path: EarlyStoppin}]}\n",
        "--trainer.callbacks EarlyStoppin: no Callback is known by this name. Did you mean EarlyStopping",
    ),
    "old option": (
        HEAD + "trainer: {gpus: 1}\n",
        "Did you mean --trainer.devices? All options: ts-lightning fit --help",
    ),
}


@pytest.mark.parametrize(("content", "said"), YAMLS.values(), ids=YAMLS)
def test_a_config_with_a_name_twice_or_of_an_older_release_is_said_in_one_line(content, said, elsewhere):
    (elsewhere / "run.yaml").write_text(content)
    error = mistake(main, "fit", "--config", "run.yaml", *SHORT)
    assert said in error
    assert error.count("\n") == 1, error


def test_the_same_name_in_two_groups_is_once_each(elsewhere):
    (elsewhere / "run.yaml").write_text(HEAD + "optimizer: {class_path: SGD, init_args: {lr: 0.1}}\nthreads: 1\n")
    done(main, *FIT, "--config", "run.yaml", "--config", "{threads: 1}", "--out", "run", drawn=False)


def test_a_home_that_the_shell_left_as_it_is_is_found(elsewhere, monkeypatch):
    monkeypatch.setenv("HOME", str(elsewhere / "home"))
    monkeypatch.setenv("USERPROFILE", str(elsewhere / "home"))
    done(main, *FIT, "--out=~/runs/first", drawn=False)
    assert {"config.yaml", "last.ckpt", "metrics.csv", "summary.json"} <= files(elsewhere / "home/runs/first")
    assert [path.name for path in elsewhere.iterdir()] == ["home"]


def test_an_address_is_no_folder(elsewhere):
    assert "found an address; expected a folder of this machine." in mistake(main, *FIT, "--out", "s3://bucket/run")
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("option", ["fast_dev_run", "barebones"])
def test_a_run_without_a_folder_leaves_the_present_one_alone(option, elsewhere):
    (elsewhere / "config.yaml").write_text("mine")
    ended = program(main, *FIT[:-2], f"--trainer.{option}", "true")
    assert ended.code == 0, str(ended)
    assert [(path.name, path.read_text()) for path in elsewhere.iterdir()] == [("config.yaml", "mine")]


def test_a_root_that_is_not_used_is_said(elsewhere):
    ended = done(main, *FIT, "--trainer.default_root_dir", "root", "--out", "run", drawn=False)
    assert "--trainer.default_root_dir root: without effect, since a run's files are in its own folder" in ended.err
    assert [path.name for path in elsewhere.iterdir()] == ["run"]


def test_a_callback_that_waits_for_nothing_is_said_in_one_line():
    stopping = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor", "nothing"]
    ended = program(main, *FIT, *stopping, drawn=False)
    assert ended.code == 2, str(ended)
    assert "error: Early stopping conditioned on metric `nothing` which is not available." in ended.err
    assert "Traceback" not in ended.err


class Narrower(LightningModule):
    """Keeps no hyperparameters, so that a checkpoint says nothing of its size."""

    def __init__(self, width: int = 3):
        super().__init__()
        self.layer = torch.nn.Linear(3, width)

    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("command", ["fit", "validate"])
def test_a_checkpoint_with_other_weights_is_said_in_one_line(command, elsewhere):
    mine = ["--model", f"{__name__}.Narrower", "--data", "tests.cli.plain.Points", *SHORT]
    done(main, "fit", *mine, "--out", "run", drawn=False)
    wider = [*mine, "--model.width", "5", "--trainer.max_epochs", "2", "--ckpt_path", "run/last.ckpt"]
    error = mistake(main, command, *wider)
    assert "--ckpt_path: its weights are not those of Narrower (size mismatch for layer.weight: " in error
    assert "Expected a checkpoint of the same module, made with the same arguments." in error


class Loading(Net):
    """Loads weights of its own that do not fit."""

    def on_fit_start(self):
        self.net.load_state_dict({})


def test_weights_that_a_module_loads_itself_are_left_to_its_traceback():
    with pytest.raises(RuntimeError, match="Missing key"):
        main([*FIT, "--model", f"{__name__}.Loading", "--out", str(Path("run"))])


def test_a_name_that_a_terminal_cannot_show_does_not_end_a_program(monkeypatch):
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", shown)
    run("a-program", lambda _: print("größe"), [])
    shown.flush()
    assert shown.buffer.getvalue().decode("ascii").strip() == "gr\\xf6\\xdfe"
