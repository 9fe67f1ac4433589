"""Words without dashes, arguments ahead of their class, and values of a command's own options: said in one line."""

import os

import pytest
import torch

from tests.support.runs import mistake
from ts_lightning.cli.main import main
from ts_lightning.recipes import lstm_nlp, two_spirals

NET = ["--model", "tests.cli.plain.Net", "--data", "tests.cli.plain.Points", "--target_space", "{}"]
SPIRALS = "python -m ts_lightning.recipes.two_spirals compare: error: "
WORDS = {
    "a config": (
        ["fit", "run.yaml"],
        "fit: error: found 'run.yaml', which is no option. Did you mean --config run.yaml?",
    ),
    "a checkpoint": (["test", *NET, "runs/a/last.ckpt"], "Did you mean --ckpt_path runs/a/last.ckpt?"),
    "of compare": (
        ["compare", "run.yml"],
        "compare: error: found 'run.yml', which is no option. Did you mean --config ",
    ),
    "of inspect": (
        ["inspect", "a.ckpt"],
        "inspect: error: found 'a.ckpt', which is no option. Did you mean --ckpt_path ",
    ),
    "another": (["fit", *NET, "3"], "found '3', which is no option. Options begin with --."),
}
AHEAD = {
    "the module's": (["--model.width", "3", *NET], "--model.width: found no --model ahead of it"),
    "the data's": ([*NET[:2], "--data.size", "3"], "--data.size: found no --data ahead of it"),
    "an optimizer's": (
        [*NET, "--optimizer.lr", "1", "--optimizer", "Adam"],
        "--optimizer.lr: found no --optimizer ahead",
    ),
    "a schedule's": ([*NET, "--lr_scheduler.gamma", "1"], "--lr_scheduler.gamma: found no --lr_scheduler ahead of it"),
    "a callback's": ([*NET, "--trainer.callbacks.x", "1"], "--trainer.callbacks.x: found no --trainer.callbacks ahead"),
    "a logger's": (
        [*NET, "--trainer.logger.name", "x"],
        "--trainer.logger.name: found no --trainer.logger ahead of it",
    ),
}
FOLDERS = {
    "a run's config": (
        ["fit", "--config", "run"],
        "--config {run}: found a folder. Did you mean {run}{sep}config.yaml?",
    ),
    "of compare": (
        ["compare", "--config", "run"],
        "--config {run}: found a folder. Did you mean {run}{sep}config.yaml?",
    ),
    "a config of none": (["fit", "--config", "other"], "{sep}other: found a folder. Expected a YAML with settings."),
    "a run's checkpoint": (
        ["test", *NET, "--ckpt_path", "run"],
        "'run': found a folder. Did you mean run{sep}last.ckpt?",
    ),
    "for export": (["export", "run", "x.ckpt"], "'run': found a folder. Did you mean run{sep}last.ckpt?"),
    "a checkpoint of none": (["test", *NET, "--ckpt_path", "other"], "'other': found a folder. Expected a file of "),
}
VALUES = {
    "a seed": (main, ["--seeds", "one"], "ts-lightning compare: error: --seeds one: expected a whole number."),
    "a level": (main, ["--levels", "0.5", "70%"], "ts-lightning compare: error: --levels 70%: expected a number."),
    "no level": (main, ["--levels"], "ts-lightning compare: error: --levels: expected at least one argument."),
    "a recipe's": (two_spirals.main, ["--lrs", "x"], f"{SPIRALS}--lrs x: expected a number."),
}


@pytest.mark.parametrize(("words", "said"), WORDS.values(), ids=WORDS)
def test_a_word_without_dashes_is_no_option(words, said):
    error = mistake(main, *words)
    assert said in error
    assert error.count("\n") == 1, error


@pytest.mark.parametrize(("words", "said"), FOLDERS.values(), ids=FOLDERS)
def test_a_folder_in_the_place_of_its_file(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in ("run/config.yaml", "run/last.ckpt", "other/notes.txt"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    error = mistake(main, *words)
    assert said.format(run=tmp_path / "run", sep=os.sep) in error
    assert error.count("\n") == 1, error


@pytest.mark.parametrize(("word", "meant"), [("print_configg", "print_config"), ("hepl", "help")])
def test_an_option_that_prints_is_suggested_too(word, meant):
    """The first was taken for --config."""
    error = mistake(main, "fit", *NET, f"--{word}")
    assert f"unrecognized arguments: --{word}. Did you mean --{meant}" in error


@pytest.mark.parametrize(("options", "said"), AHEAD.values(), ids=AHEAD)
def test_an_argument_ahead_of_its_class(options, said):
    error = mistake(main, "fit", *options)
    assert f"fit: error: {said}" in error
    assert "All options: ts-lightning fit --help" in error


@pytest.mark.parametrize(("group", "setting"), [("optimizer", "lr"), ("lr_scheduler", "gamma")])
def test_an_argument_in_a_file_without_its_class_is_told_what_belongs_beside_it(group, setting, tmp_path):
    (file := tmp_path / "run.yaml").write_text(f"{group}: {{{setting}: 0.1}}\n")
    said = mistake(main, "fit", *NET, "--config", file)
    assert f"--{group}.{setting}: found no class of --{group} beside it. Expected its class_path and init_args." in said


def test_an_argument_that_a_class_does_not_take_is_another_mistake():
    error = mistake(main, "fit", *NET, "--lr_scheduler", "ReduceLROnPlateau", "--lr_scheduler.patiens", "3")
    assert "--lr_scheduler.patiens: there is no such option. Expected one of cooldown, " in error


@pytest.mark.parametrize("command", ["fit", "compare", "inspect"])
def test_an_argument_without_a_default_names_the_command(command):
    error = mistake(main, command, "--model", "tests.cli.plain.Waiting", *NET[2:])
    assert error.startswith(f"ts-lightning {command}: error: --model.flag is missing: Waiting has no default.")
    assert "All options: ts-lightning fit --help" in error


@pytest.mark.parametrize(("program", "options", "said"), VALUES.values(), ids=VALUES)
def test_a_value_of_compare_is_said_in_one_line(program, options, said):
    error = mistake(program, "compare", *options)
    assert error.startswith(said)
    assert "compare --help" in error
    assert error.count("\n") == 1, error


def test_a_checkpoint_that_predict_lacks_is_said_in_one_line():
    assert "predict: error: the following arguments are required: checkpoint." in mistake(lstm_nlp.main, "predict")


@pytest.mark.parametrize("held", [torch.zeros(4, 7), {"x": torch.zeros(4, 3)}], ids=["shape", "dictionary"])
def test_an_input_that_the_module_does_not_take_is_said_ahead_of_the_export(held, tmp_path):
    pytest.importorskip("onnxscript")
    from tests.cli.plain import Net

    torch.save(held, tmp_path / "x.pt")
    module = Net()
    kept = {"state_dict": module.state_dict(), "pytorch-lightning_version": "2.5.0"}
    torch.save({**kept, "hyper_parameters": dict(module.hparams)}, tmp_path / "net.ckpt")
    options = ["--model", "tests.cli.plain.Net", "--input", tmp_path / "x.pt"]
    error = mistake(main, "export", tmp_path / "net.ckpt", tmp_path / "net.onnx", *options)
    assert f"--input {tmp_path / 'x.pt'}: Net cannot be called with what it holds (" in error
    assert error.count("\n") == 1, error
