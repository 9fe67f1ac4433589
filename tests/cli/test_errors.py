"""A mistake on the command line is said in a few lines, with the valid choices or the nearest, and exit code 2."""

import pytest
import yaml

from tests.support.runs import mistake
from ts_lightning.cli.main import main
from ts_lightning.recipes import two_spirals

NET = ["fit", "--model", "tests.cli.plain.Net", "--data", "tests.cli.plain.Points", "--trainer.fast_dev_run", "1"]
COMMAND = "python -m ts_lightning"
CASES = {
    "no command": ([], ["found no command; expected one of fit, validate, test, predict, compare, export, dashboard"]),
    "export": (["export", "damaged.ckpt", "x.ckpt"], ["'damaged.ckpt': not a file of tensors and built-in types"]),
    "command": (["train"], ["train", "fit", "validate", "test", "predict", "compare", "export"]),
    "option": ([*NET, "--trainer.max_stepz", "3"], ["trainer.max_stepz", "The nearest are", "trainer.max_steps"]),
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
    "module": (["fit", "--model", "tests.cli.plain.Nett", *NET[3:]], ["tests.cli.plain.Nett", "LightningModule"]),
    "no module": (["fit"], ["model"]),
    "threads": ([*NET, "--threads", "0"], ["--threads: found 0; expected at least 1"]),
    "config file": (["fit", "--config", "nowhere.yaml"], ["nowhere.yaml"]),
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


def test_an_error_says_nothing_of_the_parsers_inside():
    error = mistake(main, *NET, "--target_space.rigde", "1")
    assert "NoneType" not in error.replace("<class 'NoneType'>]", "")
    assert "NestedArg" not in error


def test_an_error_names_the_command_that_lists_all_options():
    assert mistake(main, *NET, "--zzzz", "3").endswith(f"All options: {COMMAND} fit --help\n")
    command = "python -m ts_lightning.recipes.two_spirals"
    assert mistake(two_spirals.main, "--zzzz", "3").endswith(f"All options: {command} fit --help\n")


def test_a_run_that_cannot_begin_leaves_no_folder(tmp_path):
    options = ["--target_space.layers", "[nothing]", "--out", tmp_path / "run"]
    mistake(main, *NET[:-2], "--trainer.enable_progress_bar", "false", *options)
    assert not (tmp_path / "run").exists()
