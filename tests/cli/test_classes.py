"""A class of the command line that cannot be imported or made: its own error is said, and not the parser's."""

import sys

import pytest

from tests.support.runs import mistake, program
from ts_lightning.cli.main import main
from ts_lightning.cli.program import run

DATA = ["--data", "tests.cli.plain.Points", "--trainer.fast_dev_run", "1"]
NET = ["fit", "--model", "tests.cli.plain.Net", *DATA]
FILES = {
    "syntax": ("class Net(:\n    pass\n", "line 1: SyntaxError: invalid syntax."),
    "value": ("\none = 1\nint('one')\n", "line 3: ValueError: invalid literal for int() with base 10: 'one'."),
    "type": ("len(3)\n", "line 1: TypeError: object of type 'int' has no len()."),
    "without words": ("assert not 3\n", "line 1: AssertionError."),
    "name": ("from math import nothing\n", "line 1: ImportError: cannot import name 'nothing' from 'math' "),
    "relative": ("from ..plain import Net\n", "line 1: ImportError: attempted relative import with no known parent "),
}
OPTIONS = {
    "model": ["fit", *DATA, "--model", "{name}.Net"],
    "data": ["fit", "--model", "tests.cli.plain.Net", "--data", "{name}.Net"],
    "trainer.callbacks": [*NET, "--trainer.callbacks+={name}.Net"],
    "optimizer": [*NET, "--optimizer", "{name}.Net"],
}


def imported(monkeypatch, folder, name, text):
    """Write a module and have Python find it."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, name, raising=False)
    (folder / f"{name}.py").write_text(text)


@pytest.mark.parametrize(("text", "said"), FILES.values(), ids=FILES)
def test_a_file_that_fails_is_named_with_its_line(text, said, tmp_path, monkeypatch):
    imported(monkeypatch, tmp_path, "failing", text)
    error = mistake(main, "fit", *DATA, "--model", "failing.Net")
    assert f"error: --model failing.Net: its file cannot be imported. failing.py, {said}" in error
    assert error.count("\n") == 1, error


@pytest.mark.parametrize(("option", "arguments"), OPTIONS.items(), ids=OPTIONS)
def test_a_file_that_fails_is_named_for_every_option(option, arguments, tmp_path, monkeypatch):
    imported(monkeypatch, tmp_path, "failing", "1 / 0\n")
    error = mistake(main, *(word.format(name="failing") for word in arguments))
    assert f"error: --{option} failing.Net: its file cannot be imported. failing.py, line 1: ZeroDivisionError" in error
    assert error.count("\n") == 1, error


def test_a_file_that_a_yaml_names_with_arguments_is_named_too(tmp_path, monkeypatch):
    imported(monkeypatch, tmp_path, "failing", "1 / 0\n")
    (tmp_path / "run.yaml").write_text("model: {class_path: failing.Net, init_args: {depth: 3}}\n")
    assert "--model failing.Net: its file cannot be imported. failing.py, line 1" in mistake(
        main, "fit", "--config", "run.yaml", *DATA
    )


REQUIRED = {
    "module": (
        ["fit", *DATA, "--model", "tests.cli.plain.Waiting"],
        "--model.flag is missing: Waiting has no default.",
    ),
    "callback": (
        [*NET, "--trainer.callbacks+=EarlyStopping"],
        "--trainer.callbacks.monitor is missing: EarlyStopping ",
    ),
    "scheduler": (
        [*NET, "--optimizer", "SGD", "--lr_scheduler", "StepLR"],
        "--lr_scheduler.step_size is missing: StepLR has no default.",
    ),
    "logger": (
        [*NET, "--trainer.logger", "CSVLogger"],
        "--trainer.logger.save_dir is missing: CSVLogger has no default.",
    ),
}


@pytest.mark.parametrize(("arguments", "said"), REQUIRED.values(), ids=REQUIRED)
def test_an_argument_that_a_class_needs_is_said_in_one_line(arguments, said):
    error = mistake(main, *arguments)
    assert said in error
    assert error.count("\n") == 1, error


def test_an_unknown_argument_of_a_class_with_many_is_said_in_one_line():
    error = mistake(main, *NET, "--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.zzzz=3")
    assert "--trainer.callbacks.zzzz: there is no such option. " in error
    assert error.count("\n") == 1, error


MADE = {
    "ours": (
        ["--trainer.callbacks+=TargetSpaceMonitor", "--trainer.callbacks.every_n_steps=0"],
        "every_n_steps=0: exp",
    ),
    "our data": (["--data", "ts_lightning.data.BitsDataModule", "--data.batch_size", "0"], "batch_size: found 0; exp"),
    "Lightning's": (
        ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=x", "--trainer.callbacks.mode=up"],
        "`mode` can be min, max, got up",
    ),
}


@pytest.mark.parametrize(("options", "said"), MADE.values(), ids=MADE)
def test_a_value_that_a_class_refuses_is_said_in_one_line(options, said):
    error = mistake(main, *NET, *options)
    assert error.splitlines()[-1].startswith(f"ts-lightning: error: {said}"), error
    assert "Traceback" not in error


CAUSED = """
from tests.cli.plain import Net


class Small(Net):
    def __init__(self, width: int = 8):
        try:
            [][width]
        except IndexError as error:
            raise ValueError("width: no such row") from error
"""


def test_an_error_of_a_users_class_is_its_own(tmp_path, monkeypatch):
    imported(monkeypatch, tmp_path, "caused", CAUSED)
    with pytest.raises(ValueError, match=r"^width: no such row$") as failed:
        main(["fit", *DATA, "--model", "caused.Small"])
    assert isinstance(failed.value.__cause__, IndexError)
    assert "jsonargparse" not in str(failed.value.__context__)


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_a_best_checkpoint_is_refused_by_a_command_that_begins_without_one(command):
    said = "--ckpt_path best: a command begins without a best checkpoint; expected a file."
    assert said in mistake(main, command, *NET[1:], "--ckpt_path", "best")


def test_a_run_that_wandb_does_not_begin_is_said_in_one_line():
    errors = pytest.importorskip("wandb.errors")

    def fails(_):
        raise errors.UsageError("No API key configured.")

    ended = program(lambda arguments: run("a-program", fails, arguments))
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "error: W&B did not begin the run (No API key configured): run wandb login, or keep it on" in ended.err
