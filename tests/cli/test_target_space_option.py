"""``--target_space``: settings for any module, from the command line or a YAML, kept with run and checkpoint."""

import re
from dataclasses import replace

import pytest
import yaml

from tests.cli.plain import Net, Points
from tests.cli.solved import OWN, Asked, Solved
from tests.support.fits import trainer
from tests.support.runs import done, metrics, program
from ts_lightning import ReferenceConfig, TargetSpaceConfig
from ts_lightning.cli import TargetSpaceCLI
from ts_lightning.cli.main import main

POINTS = ["--data", "tests.cli.plain.Points", "--trainer.enable_model_summary", "false"]
QUIET = ["--trainer.accelerator", "cpu", "--trainer.logger", "false", "--trainer.enable_progress_bar", "false"]


def model(kind, *options):
    """The module of a command line, after one step."""
    arguments = ["fit", *kind, *POINTS, *QUIET, "--trainer.fast_dev_run", "1", *options]
    return TargetSpaceCLI(args=arguments).model


def of(kind):
    return ["--model", f"{kind.__module__}.{kind.__name__}"]


CASES = {
    "a setting for a plain module": (Net, ["--target_space.ridge", "0.5"], TargetSpaceConfig(ridge=0.5)),
    "a nested one": (
        Net,
        ["--target_space.reference.size", "12"],
        TargetSpaceConfig(reference=ReferenceConfig(size=12)),
    ),
    "the module's own": (Solved, [], OWN),
    "one beside the module's own": (Solved, ["--target_space.ridge", "0.5"], replace(OWN, ridge=0.5)),
    "a nested one beside the module's own": (
        Solved,
        ["--target_space.reference.rows", "9"],
        replace(OWN, reference=ReferenceConfig(size=20, rows=9)),
    ),
    "a list": (Net, ["--target_space.layers", "[net.0]"], TargetSpaceConfig(layers=["net.0"])),
    "an argument of the module": (Asked, ["--model.target_space.ridge", "0.5"], replace(OWN, ridge=0.5)),
}


@pytest.mark.parametrize(("kind", "options", "expected"), CASES.values(), ids=CASES)
def test_settings_reach_the_module_and_train_targets(kind, options, expected):
    found = model(of(kind), *options)
    assert found.target_space == expected
    layers = {"net.0", "net.2"} if expected.layers is None else set(expected.layers)
    assert set(found.target_space_engine.targets) == layers


def test_a_table_says_where_target_space_ended(tmp_path):
    short = ["--trainer.max_steps", "4", "--trainer.accelerator", "cpu", "--data", "tests.cli.plain.Points"]
    options = [*of(Net), *short, "--target_space.until", "2", "--out", tmp_path / "run"]
    table = done(main, "fit", *options).out
    assert "Net, target space for 2 steps, then weight space: done after 4 steps" in table
    assert re.search(r"^target space +2 of 2 layers \(100.0 %", table, re.MULTILINE)


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        (Net, [], True),
        (Solved, ["--target_space", "null"], True),
        (Net, ["--target_space", "{}"], False),
        (Solved, [], False),
    ],
)
def test_a_fit_in_weight_space_is_said(kind, options, said, caplog):
    caplog.set_level("INFO", logger="lightning.pytorch.utilities.rank_zero")
    model(of(kind), *options)
    assert (f"{kind.__name__} trains in weight space: --target_space is null, or not given" in caplog.text) == said


@pytest.mark.parametrize("kind", [Solved, Asked])
def test_null_is_weight_space(kind):
    found = model(of(kind), "--target_space", "null")
    assert found.target_space is None
    assert found.target_space_engine is None


def test_a_plain_module_stays_as_it_is_without_settings():
    assert type(model(of(Net))) is Net


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {"ridge": 0.5, "reference": {"size": 9, "rows": 8}},
            TargetSpaceConfig(ridge=0.5, reference=ReferenceConfig(size=7, rows=8)),
        ),
        (None, None),
    ],
    ids=["settings", "null"],
)
def test_a_yaml_says_it_and_the_command_line_has_the_last_word(given, expected, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({"model": {"class_path": "tests.cli.solved.Solved"}, "target_space": given}))
    found = model(["--config", str(file)], *(["--target_space.reference.size", "7"] if given else [])).target_space
    assert found == expected


@pytest.mark.parametrize(("kind", "ridge"), [(Solved, 0.25), (Net, None)])
def test_print_config_has_the_modules_own_settings(kind, ridge):
    printed = program(main, "fit", *of(kind), *POINTS, "--print_config")
    assert printed.code == 0
    found = yaml.safe_load(printed.out)["target_space"]
    assert (None if found is None else found["ridge"]) == ridge


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run with a setting beside the module's own, and one in weight space."""
    folder = tmp_path_factory.mktemp("runs")
    short = [*POINTS, "--trainer.accelerator", "cpu", "--trainer.max_epochs", "2", "--trainer.log_every_n_steps", "1"]
    for name, option in (("target", ".ridge=0.5"), ("weight", "=null")):
        done(main, "fit", *of(Solved), *short, f"--target_space{option}", "--out", folder / name, drawn=False)
    return folder


@pytest.mark.parametrize("space", ["target", "weight"])
def test_it_is_saved_with_the_run_which_is_repeated_from_it(space, runs, tmp_path):
    saved = yaml.safe_load((runs / space / "config.yaml").read_text())["target_space"]
    assert saved == (None if space == "weight" else replace(OWN, ridge=0.5).to_dict())
    done(main, "fit", "--config", runs / space / "config.yaml", "--out", tmp_path / "again", drawn=False)
    assert len(metrics(runs / space, "train/loss")) == 8
    assert metrics(tmp_path / "again", "train/loss") == metrics(runs / space, "train/loss")
    assert (tmp_path / "again" / "config.yaml").read_text() == (runs / space / "config.yaml").read_text()


def test_a_checkpoint_brings_the_settings_of_its_run(runs):
    load = Solved.load_from_checkpoint
    assert load(runs / "target" / "last.ckpt").target_space == replace(OWN, ridge=0.5)
    assert load(runs / "weight" / "last.ckpt").target_space is None
    assert Solved.target_space == OWN


def test_arguments_of_the_module_come_before_the_settings_of_the_run(tmp_path):
    run = trainer(max_epochs=1)
    run.fit(Asked(replace(OWN, ridge=0.5)), Points())
    run.save_checkpoint(tmp_path / "last.ckpt")
    load = Asked.load_from_checkpoint
    assert load(tmp_path / "last.ckpt", weights_only=False).target_space.ridge == 0.5
    assert load(tmp_path / "last.ckpt", target_space=None, weights_only=False).target_space is None
    given = load(tmp_path / "last.ckpt", target_space=replace(OWN, ridge=2.0), weights_only=False)
    assert given.target_space.ridge == 2
