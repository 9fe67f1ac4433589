"""Whatever logger a user gives, the run's own CSV stays the first; settings reach them all; ``false`` is without."""

import json
from pathlib import Path

import yaml
from lightning.pytorch.loggers import CSVLogger, Logger

from tests.support.runs import FILES, done, files, metrics
from ts_lightning.cli import TargetSpaceCLI
from ts_lightning.cli.main import main

NET = ["--model", "tests.cli.solved.Solved", "--data", "tests.cli.plain.Points", "--trainer.max_epochs", "1"]
SHORT = ["--trainer.accelerator", "cpu", "--trainer.log_every_n_steps", "1"]


class Kept(Logger):
    """Keeps what it is given."""

    def __init__(self, name: str = "kept"):
        super().__init__()
        self.given, self.rows, self._name = {}, [], name

    @property
    def name(self):
        return self._name

    @property
    def version(self):
        return 0

    def log_metrics(self, metrics, step=None):
        self.rows.append(metrics)

    def log_hyperparams(self, params, *_, **__):
        self.given.update(params)


def test_the_csv_comes_first_and_a_users_logger_gets_metrics_and_settings(tmp_path):
    logger = ["--trainer.logger", "tests.cli.test_loggers.Kept", "--trainer.logger.name", "mine"]
    quiet = ["--trainer.enable_progress_bar", "false", "--out", str(tmp_path / "run")]
    trainer = TargetSpaceCLI(args=["fit", *NET, *SHORT, *logger, *quiet]).trainer
    csv, kept = trainer.loggers
    assert isinstance(csv, CSVLogger)
    assert (kept.name, Path(trainer.log_dir)) == ("mine", tmp_path / "run")
    assert files(tmp_path / "run") == FILES
    losses = [row["train/loss"] for row in kept.rows if "train/loss" in row]
    assert losses == metrics(tmp_path / "run", "train/loss")
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert kept.given["space"] == "target"
    assert kept.given["target_space"] == settings["target_space"]
    assert kept.given["model"] == settings["model"]


def test_several_loggers_from_a_yaml(tmp_path):
    kept = [{"class_path": "tests.cli.test_loggers.Kept", "init_args": {"name": name}} for name in ("a", "b")]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"trainer": {"logger": kept}}))
    options = ["--config", str(tmp_path / "run.yaml"), "--trainer.enable_progress_bar", "false"]
    made = TargetSpaceCLI(args=["validate", *NET, *SHORT, *options, "--out", str(tmp_path / "run")])
    assert [logger.name for logger in made.trainer.loggers] == ["", "a", "b"]
    assert metrics(tmp_path / "run", "test/loss") == [made.trainer.loggers[1].rows[0]["test/loss"]]


def test_without_a_logger_the_run_is_summed_up_all_the_same(tmp_path):
    ended = done(main, "fit", *NET, *SHORT, "--trainer.logger", "false", "--out", tmp_path / "run")
    assert files(tmp_path / "run") == FILES - {"metrics.csv"}
    assert "Solved, target space: done after 4 steps" in ended.out
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 4
