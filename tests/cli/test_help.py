"""``--help`` of every command and recipe: it ends well, and says units and defaults."""

import pickle
import re
from importlib import import_module

import pytest

from tests.support.runs import program
from ts_lightning.cli.main import main
from ts_lightning.cli.parser import Parser

RECIPES = ["two_spirals", "cnn_images", "rnn_bits", "lstm_nlp"]
COMMANDS = ["fit", "validate", "test", "predict"]


def said(main, *arguments):
    """A help in one line."""
    ended = program(main, *arguments, "--help")
    assert (ended.code, ended.err) == (0, "")
    return " ".join(ended.out.split())


def recipe(name):
    return import_module(f"ts_lightning.recipes.{name}").main


def test_the_program_lists_its_commands():
    text = said(main)
    assert text.startswith("usage: ts-lightning ")
    assert listed(main) == {*COMMANDS, "compare", "inspect", "export", "dashboard"}


def listed(main):
    """The commands that a help lists, each with what it does."""
    return set(re.findall(r"^    (\w+) +[a-z]\w+", program(main, "--help").out, re.MULTILINE))


@pytest.mark.parametrize("command", COMMANDS)
def test_own_options_say_what_they_do_and_their_default(command):
    text = said(main, command)
    assert "--target_space.ridge 0.1 sets one" in text
    assert "null trains in weight space. Default: the module's own." in text
    assert "Folder for the run's files, new or empty (default: runs/ts_lightning/<time>)" in text
    assert "CPU threads (default: torch's choice)" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_lightnings_commands_is_short(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    ended = program(main, command, "--help")
    assert len(ended.out.splitlines()) < 350
    text = " ".join(ended.out.split())
    assert text.startswith(f"usage: ts-lightning {command} [options] ")
    assert "--ckpt_path CKPT_PATH The checkpoint to resume from, or to measure: a file, or last" in text
    assert re.search(r"known: .*\bEarlyStopping, .*\bTargetSpaceMonitor\b", text)
    assert "known subclasses" not in text
    assert "StepClock" not in text


def test_every_setting_of_target_space_has_its_unit_and_default():
    text = " ".join(program(main, "fit", "--target_space.help").out.split())
    assert "the ridge constant, in the unit that ``ridge_scale`` says" in text
    assert "(type: float, default: 1.0)" in text
    assert "number of training samples in the reference batch" in text
    assert "standard deviation of the initial targets" in text


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_its_settings_with_defaults(name):
    text = said(recipe(name), "fit")
    assert f"usage: python -m ts_lightning.recipes.{name} " in text
    assert f"(default: runs/{name}/<time>)" in text
    for option in ("--model.lr", "--seed_everything", "--target_space", "--trainer.max_epochs"):
        assert option in text
    assert re.search(r"--model.lr LR Adam's learning rate; default 0\.0\d+", text)
    assert "ARG:" not in text


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_alone_lists_its_commands_and_says_what_happens_without_one(name):
    text = said(recipe(name))
    assert f"usage: python -m ts_lightning.recipes.{name} " in text
    assert listed(recipe(name)) == {*COMMANDS, "compare", *(["predict"] if name == "lstm_nlp" else [])}
    assert "without arguments, train in both spaces and compare" in text
    assert "fit and then test" in text


def test_the_packages_own_commands():
    text = said(main, "compare")
    assert text.startswith("usage: ts-lightning compare")
    assert "(default: --seed_everything, 0)" in text
    assert "(default: runs/ts_lightning_compare/<time>)" in text
    text = said(main, "export")
    assert text.startswith("usage: ts-lightning export")
    assert ".ckpt" in text
    assert ".safetensors" in text
    assert ".onnx" in text
    assert "--entity" in said(main, "dashboard")
    assert "checkpoint" in said(recipe("lstm_nlp"), "predict")
    assert said(recipe("rnn_bits"), "compare").startswith("usage: python -m ts_lightning.recipes.rnn_bits compare")


def test_spawned_processes_get_the_formatter_that_python_keeps_in_a_parser():
    description = "One sentence.\n\n    an indented line"
    parser = Parser(description=description)
    formatter = pickle.loads(pickle.dumps(parser._get_formatter()))
    formatter.add_text(description)
    assert "\n\n    an indented line" in formatter.format_help()
