"""A mistake on the command line is said in a few lines, with the valid choices or the nearest, and exit code 2."""

import os
import re
import sys
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
    "type": ([*NET, "--trainer.max_steps", "many"], ["--trainer.max_steps many: expected a whole number."]),
    "choice": ([*NET, "--target_space.method", "ucs"], ["--target_space: method='ucs': expected one of 'scu', 'ocu'"]),
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
    "threads": ([*NET, "--threads", "0"], ["--threads: found 0; expected a number at least 1"]),
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
        "it is no LightningModule. Expected one of LightningModule, Net, Narrow, Waiting, Keyed.",
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


LIST = "expected a list of names or globs, as in"
SPACE = {
    "layers": ("net", f"--target_space: layers='net': {LIST} ['net']."),
    "exclude": ("net", f"--target_space: exclude='net': {LIST} ['net']."),
    "layers=": ("7", f"--target_space: layers=7: {LIST} ['encoder.*']."),
    "layers[]": ("[1, 2]", f"--target_space: layers=[1, 2]: {LIST} ['encoder.*']."),
    "exclude=": ("null", f"--target_space: exclude=None: {LIST} ['encoder.*']."),
    "ridge": ("x", "='x': expected a number, found str."),
    "init_std": ("x", "--target_space: init_std='x': expected a number, found str."),
    "forget_bias": ("x", "--target_space: forget_bias='x': expected a number, found str."),
    "step_scale": ("x", "='x': expected a number, found str."),
    "untangle": ("1.5", "=1.5: expected a whole number, found float."),
    "until": ("net", "='net': expected a whole number, found str."),
    "method": ("3", "--target_space: method=3: expected one of 'scu', 'ocu'."),
    "init": ("random", "--target_space: init='random': expected one of 'auto', "),
    "solve_dtype": ("half", "--target_space: solve_dtype='half': expected one of 'auto', "),
    "cascade_gradient": ("x", "--target_space: cascade_gradient='x': expected one of False, True."),
    "cuda_graphs": ("x", "--target_space: cuda_graphs='x': expected one of False, True."),
    "reference": ("7", "--target_space.reference 7: expected settings by their names"),
    "reference.size": ("many", "='many': expected a whole number, found str."),
    "reference.rows": ("many", "='many': expected a whole number, found str."),
    "reference.refresh": ("x", "='x': expected a whole number, found str."),
    "reference.selection": ("last", "selection='last': expected one of 'first', 'random', 'balanced'."),
    "reference.shard": ("7", "--target_space: reference.shard=7: expected one of False, True."),
    "rigde": ("1", "--target_space.rigde: there is no such option. Expected one of cascade_gradient, "),
    "reference.sise": ("1", "--target_space.reference.sise: there is no such option. Expected one of "),
}


@pytest.mark.parametrize(("setting", "value", "said"), [(name, *rest) for name, rest in SPACE.items()])
def test_a_setting_of_target_space_of_another_type_is_said_in_one_line(setting, value, said):
    error = mistake(main, *NET, f"--target_space.{setting.rstrip('=[]')}", value)
    assert said in error
    assert error.count("\n") == 1, error


TYPES = {
    "int": (["--trainer.max_steps", "many"], "--trainer.max_steps many: expected a whole number."),
    "null": (["--threads", "x"], "--threads x: expected a whole number or null."),
    "choices": (["--trainer.precision", "99"], "--trainer.precision 99: expected 64, 32, 16, 'transformer-engine', "),
    "of the module": (["--model.width", "x"], "--model.width x: expected a whole number."),
    "of a callback": (
        ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=x", "--trainer.callbacks.patience=x"],
        "--trainer.callbacks.patience x: expected a whole number.",
    ),
    "of an optimizer": (["--optimizer", "SGD", "--optimizer.lr", "x"], "--optimizer.lr x: expected a number."),
    "unknown of an optimizer": (["--optimizer", "SGD", "--optimizer.lrr", "1"], "--optimizer.lrr: there is no such"),
    "settings": (["--target_space", "7"], "--target_space: found 7; expected settings, as --target_space.ridge 1"),
    "a list": (["--target_space", "[1]"], "--target_space: found [1]; expected settings, as --target_space.ridge 1"),
}


@pytest.mark.parametrize(("options", "said"), TYPES.values(), ids=TYPES)
def test_a_value_of_another_type_is_said_in_one_line(options, said):
    error = mistake(main, *NET, *options)
    assert said in error
    assert error.count("\n") == 1, error


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_a_missing_module_or_data_is_said_in_one_line_with_the_commands_help(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = mistake(main, command, "--data", "tests.cli.plain.Points")
    assert error == (
        f"ts-lightning {command}: error: --model is missing. Expected the module to use: --model package.module.Class. "
        f"All options: ts-lightning {command} --help\n"
    )
    error = mistake(main, command, "--model", "tests.cli.plain.Net", "--trainer.accelerator", "cpu")
    assert "error: --data is missing: expected the data module to use, --data package.module.Class, or a" in error
    assert list(tmp_path.glob("runs/*/*")) == []


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes at errors are of Python 3.11")
@pytest.mark.parametrize(
    ("options", "place"),
    [
        (["fit", "--trainer.num_sanity_val_steps", "0"], "in training, batch 1 of epoch 1, after 0 steps"),
        (["test"], "in testing, after 0 steps"),
        (["fit"], "in the sanity check, after 0 steps"),
    ],
    ids=["step", "test", "sanity check"],
)
def test_an_error_of_the_module_ends_with_where_it_happened(options, place, tmp_path):
    narrow = ["--model", "tests.cli.plain.Narrow", "--data", "tests.cli.plain.Points", "--trainer.accelerator", "cpu"]
    with pytest.raises(RuntimeError, match="cannot be multiplied") as failed:
        main([*options, *narrow, "--out", str(tmp_path / "run")])
    assert failed.value.__notes__ == [f"This happened {place}."]


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


def test_an_option_of_a_group_names_those_of_the_group():
    error = mistake(two_spirals.main, "--data.points", "3")
    assert "--data.points 3. Expected one of --data.steps_per_epoch." in error
    assert "--qqqq.zzzz 3. No option is called anything like it. All" in mistake(main, *NET, "--qqqq.zzzz", "3")


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
    "an extra in Lightning's words": (
        ModuleNotFoundError(
            "Requirement 'wandb>=0.12.10' not met. HINT: Try running `pip install -U 'wandb>=0.12.10'`"
        ),
        "error: wandb is missing. Install it: pip install 'ts-lightning[wandb]'\n",
    ),
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
