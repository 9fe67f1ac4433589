"""A mistake on the command line is said in a few lines, with the valid choices or the nearest, and exit code 2."""

import os
import re
from pathlib import Path

import pytest
import yaml

import ts_lightning
from tests.support.runs import mistake, program
from ts_lightning.cli.main import main
from ts_lightning.cli.program import _EXTRAS, run
from ts_lightning.recipes import two_spirals

ROOT = Path(__file__).parents[2]
NET = ["fit", "--model", "tests.cli.plain.Net", "--data", "tests.cli.plain.Points", "--trainer.fast_dev_run", "1"]
COMMAND = "ts-lightning"
CASES = {
    "no command": (
        [],
        ["found no command; expected one of fit, validate, test, predict, compare, inspect, export, dashboard"],
    ),
    "export": (["export", "damaged.ckpt", "x.ckpt"], ["'damaged.ckpt': not a file of tensors and built-in types"]),
    "command": (["train"], ["train", "fit", "validate", "test", "predict", "compare", "export"]),
    "option": ([*NET, "--trainer.max_stepz", "3"], ["trainer.max_stepz", "Did you mean --trainer.max_steps"]),
    "option of the module": ([*NET, "--model.widht", "3"], ["widht", "lr, width"]),
    "abbreviation": ([*NET, "--trainer.max_step", "3"], ["--trainer.max_step 3", "trainer.max_steps"]),
    "option of nothing": ([*NET, "--zzzz", "3"], ["--zzzz", "No option is called anything like it"]),
    "type": ([*NET, "--trainer.max_steps", "many"], ["trainer.max_steps", "int", "many"]),
    "choice": ([*NET, "--target_space.method", "ucs"], ["target_space", "scu", "ocu", "Got value: ucs"]),
    "setting": ([*NET, "--target_space.rigde", "1"], ["rigde", "ridge_scale"]),
    "range": (
        [*NET, "--target_space.ridge", "-1"],
        ["--target_space: ridge ('auto' or a number)=-1", "expected a finite number above 0"],
    ),
    "combination": (
        [*NET, "--target_space.method", "ocu", "--target_space.reference.rows", "9"],
        ["--target_space: method='ocu'", "Use rows='all'"],
    ),
    "layer": ([*NET, "--target_space.layers", "[nothing]"], ["'nothing'", "matches no layer"]),
    "no module": (["fit"], ["model"]),
    "threads": ([*NET, "--threads", "0"], ["--threads: found 0; expected at least 1"]),
    "checkpoint": ([*NET, "--ckpt_path", "nowhere.ckpt"], ["'nowhere.ckpt': cannot be read (No such file"]),
    "damaged checkpoint": ([*NET, "--ckpt_path", "damaged.ckpt"], ["'damaged.ckpt': not a file of tensors"]),
}


@pytest.mark.parametrize(("options", "said"), CASES.values(), ids=CASES)
def test_a_mistake_is_said_with_what_there_is(options, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "damaged.ckpt").write_text("no checkpoint")
    error = mistake(main, *options)
    assert [text for text in said if text not in error] == [], error
    assert [path.name for path in tmp_path.iterdir()] == ["damaged.ckpt"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"trainer": {"max_step": 3}}, ["max_step", "trainer.max_steps"]),
        ({"target_space": {"rigde": 1}}, ["rigde", "ridge_scale"]),
        ({"modle": {"class_path": "x"}}, ["modle"]),
        ({"target_spaec": {}}, ["found 'target_spaec'; expected target_space."]),  # jsonargparse takes an empty group
    ],
    ids=["trainer", "target space", "group", "empty group"],
)
def test_a_wrong_key_of_a_yaml_is_said_with_what_there_is(settings, said, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(settings))
    error = mistake(main, *NET, "--config", file)
    assert [text for text in said if text not in error] == [], error


BASE = ["fit", "--data", "tests.cli.plain.Points", "--model"]
NOWHERE = f"error: --config {{folder}}{os.sep}nowhere.yaml: found no such file. Expected a YAML with settings."
ONE_LINE = {
    "no yaml": (["fit", "--config", "nowhere.yaml"], NOWHERE),
    "class": (
        [*BASE, "tests.cli.plain.Nett"],
        "--model tests.cli.plain.Nett: tests.cli.plain has no 'Nett'. Did you mean tests.cli.plain.Net?",
    ),
    "class of another kind": (
        [*BASE, "tests.cli.plain.Points"],
        "it is no LightningModule. Expected one of LightningModule, Net, Waiting, Keyed.",
    ),
    "module": ([*BASE, "nopackage.Net"], "it cannot be imported (No module named 'nopackage'). Expected package."),
    "name alone": ([*BASE, "Cassifier"], "--model Cassifier: no LightningModule is known by this name. "),
    "callback": ([*NET, "--trainer.callbacks+=TargetSpaceMonitorr"], "Did you mean TargetSpaceMonitor"),
    "our optimizer": ([*NET, "--optimizer", "TargetAdamm"], "Did you mean TargetAdam"),
    "optimizer": ([*NET, "--optimizer", "Adamm"], "no Optimizer is known by this name. Did you mean Adam"),
    "class in a yaml": (["fit", "--config", "misspelt.yaml"], "--model tests.cli.plain.Nett: "),
    "empty yaml": ([*NET, "--config", "empty.yaml"], "--config: found an empty file. Expected a YAML with settings."),
    "strategy": (
        [*NET, "--trainer.strategy", "fsdp", "--trainer.accelerator", "cpu"],
        "--trainer: The strategy `fsdp`",
    ),
}


@pytest.mark.parametrize(("options", "said"), ONE_LINE.values(), ids=ONE_LINE)
def test_a_missing_yaml_and_a_misspelt_class_are_said_in_one_line(options, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.yaml").touch()
    (tmp_path / "misspelt.yaml").write_text("model: {class_path: tests.cli.plain.Nett}\ndata: tests.cli.plain.Points\n")
    error = mistake(main, *options)
    assert said.format(folder=tmp_path) in error
    assert error.count("\n") == 1, error


MEANT = {
    "epochs": "trainer.max_epochs",
    "max_epochs": "trainer.max_epochs",
    "max-steps": "trainer.max_steps",
    "gpus": "trainer.devices",
    "seed": "seed_everything",
    "checkpoint": "ckpt_path",
    "maxepochs": "trainer.max_epochs",
}


@pytest.mark.parametrize(("word", "meant"), MEANT.items())
def test_an_option_that_nobody_knows_suggests_the_one_that_is_meant(word, meant):
    assert f"Did you mean --{meant}?" in mistake(main, *NET, f"--{word}", "3")


def test_an_option_of_a_recipes_module_and_data_is_suggested():
    assert "Did you mean --model.lr?" in mistake(two_spirals.main, "--lr", "3")
    assert "An argument of the module is --model.lr, of the data --data.lr." in mistake(main, *NET, "--lr", "3")


PACKAGES = {
    "tensorboard": (
        ModuleNotFoundError("Neither `tensorboard` nor `tensorboardX` is available. Try `pip install`ing either."),
        "Install it: pip install tensorboard\n",
    ),
    "by its module": (ModuleNotFoundError("No module named 'yaml'", name="yaml"), "Install it: pip install PyYAML\n"),
    "within a package": (ModuleNotFoundError("No module named 'a.b'", name="a.b"), "Install it: pip install a\n"),
    "an extra": (ModuleNotFoundError("No module named 'onnx'", name="onnx"), "pip install 'ts-lightning[export]'\n"),
    "Lightning's own words": (
        ModuleNotFoundError("Requirement 'x>=1' not met. HINT: Try running `pip install -U 'x>=1'`"),
        "error: Requirement 'x>=1' not met. HINT: Try running `pip install -U 'x>=1'`.\n",
    ),
}


@pytest.mark.parametrize(("error", "said"), PACKAGES.values(), ids=PACKAGES)
def test_a_missing_package_is_named_as_it_is_installed(error, said):
    def fails(_):
        raise error

    ended = program(lambda arguments: run("a-program", fails, arguments))
    assert ended.code == 2
    assert ended.err.endswith(said), ended.err


def test_the_packages_of_the_extras_are_those_of_the_project():
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra, modules in _EXTRAS.items():
        installed = {re.match(r"[\w-]+", package)[0].replace("-", "_") for package in extras[extra]}
        assert set(modules) <= installed, extra


def test_an_error_says_nothing_of_the_parsers_inside():
    error = mistake(main, *NET, "--target_space.rigde", "1")
    assert "NoneType" not in error.replace("<class 'NoneType'>]", "")
    assert "NestedArg" not in error


def test_an_error_names_the_command_that_lists_all_options():
    assert mistake(main, *NET, "--zzzz", "3").endswith(f"All options: {COMMAND} fit --help\n")
    command = "python -m ts_lightning.recipes.two_spirals"
    assert mistake(two_spirals.main, "--zzzz", "3").endswith(f"All options: {command} fit --help\n")


@pytest.mark.parametrize(
    "options", [["--target_space.layers", "[nothing]"], ["--trainer.strategy", "fsdp", "--trainer.accelerator", "cpu"]]
)
def test_a_run_that_cannot_begin_leaves_no_folder(options, tmp_path):
    mistake(main, *NET[:-2], "--trainer.enable_progress_bar", "false", *options, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_version_is_said():
    ended = program(main, "--version")
    assert (ended.code, ended.out) == (0, f"ts-lightning {ts_lightning.__version__}\n")
