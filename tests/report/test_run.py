"""A run's folder: summary, settings, commands, pictures; and the table of it."""

import re

import pytest

from tests.report.folders import CONFIG, rows, run, summary
from ts_lightning.errors import SettingError
from ts_lightning.report import Run, Summary, run_table
from ts_lightning.report.units import Spread, duration, memory, plain


def test_a_summary_comes_back_as_it_was_written(tmp_path):
    written = summary(title="ä <&>", peak_memory=2**31, interrupted=True, extra={"first": "12"})
    written.write(tmp_path)
    assert Summary.read(tmp_path) == written


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "cannot be read"), ("{", "expected the summary"), ("[]", "the summary"), ('{"steps": 3}', "title")],
)
def test_a_folder_without_a_summary_is_refused(text, message, tmp_path):
    if text is not None:
        (tmp_path / "summary.json").write_text(text)
    with pytest.raises(SettingError, match=message):
        Run.read(tmp_path)


def test_summaries_of_later_versions_are_read(tmp_path):
    summary().write(tmp_path)
    file = tmp_path / "summary.json"
    file.write_text(file.read_text().replace("{", '{"colour": "red",', 1))
    assert Summary.read(tmp_path) == summary()


def test_settings_and_versions(tmp_path):
    found = run(tmp_path)
    assert found.config == CONFIG
    assert found.settings["target_space"]["reference"] == {"size": 194}
    assert found.versions == "ts_lightning 0.1.0, torch 2.8.0, lightning 2.5.5, 1 CPU threads"
    for number, text in enumerate(("a: !user.Type {}\n", "- 1\n", None)):
        assert run(tmp_path / str(number), config=text).settings == {}


def test_commands_are_given_or_derived(tmp_path):
    folder = tmp_path / "a run"
    assert run(folder).commands == {"repeat": f"ts-lightning fit --config '{folder}/config.yaml'"}
    (folder / "last.ckpt").touch()
    assert run(folder).commands["resume"].endswith(f"--ckpt_path '{folder}/last.ckpt'")
    given = run(folder, extra={"repeat": "again", "first": "3"})
    assert given.commands == {"repeat": "again"}
    assert given.remarks == {"first": "3"}
    assert run(tmp_path / "b", config=None).commands == {}


def test_pictures_are_those_that_the_report_does_not_draw(tmp_path):
    run(tmp_path)
    for name in ("figure.png", "figure.svg", "decision_regions.png", "confusion_matrix.png", "confusion_matrix.svg"):
        (tmp_path / name).touch()
    assert [file.stem for file in Run.read(tmp_path).pictures] == ["confusion_matrix", "decision_regions"]


def test_seconds_that_were_not_measured_come_from_the_mean_step(tmp_path):
    found = run(tmp_path, [{"step": 50, "train/loss": 1.0}, *rows("test/loss", [1.0], seconds=0.3)])
    assert [point.seconds for point in found.points("train/loss")] == [1.0]
    assert [point.seconds for point in found.points("test/loss")] == [3.0]


def test_the_table_of_a_run(tmp_path):
    table = [{"step": 0, "train/loss": 9.0}, *rows("test/accuracy", [0.5, 0.75, 0.7]), *rows("test/loss", [2.0, 1.0])]
    (tmp_path / "checkpoints").mkdir()
    text = run_table(run(tmp_path, table, peak_memory=3 * 2**30, extra={"first perfect": "never"}))
    head, line, *_ = text.strip().splitlines()
    assert head == "spirals, target space: done after 100 steps"
    assert line == "-" * len(head)
    assert re.search(r"^test accuracy +0\.7000 +0\.7500 +20$", text, re.M)
    assert re.search(r"^test loss +1\.0000 +1\.0000 +20$", text, re.M)
    assert re.search(r"^first perfect +never$", text, re.M)
    assert re.search(r"^time per step +5\.0 ms \(median", text, re.M)
    assert re.search(r"^training time +2\.00 s, 100 steps$", text, re.M)
    assert re.search(r"^memory added +3\.00 GiB \(peak of training", text, re.M)
    assert f"{tmp_path}/: checkpoints/, config.yaml, metrics.csv, summary.json" in text
    assert not re.search(r"^train loss", text, re.M)


def test_the_table_of_a_run_that_was_interrupted_at_once(tmp_path):
    text = run_table(run(tmp_path, steps=0, seconds=0.0, step_seconds=None, interrupted=True))
    assert "interrupted after 0 steps" in text
    assert "not measured yet" in text
    assert "time per step" not in text


def test_the_table_of_a_run_that_diverged(tmp_path):
    text = run_table(run(tmp_path, rows("test/loss", [float("nan")])))
    assert re.search(r"^test loss +nan +none +none$", text, re.M)


def test_numbers_in_units_that_suit_them():
    assert [plain(value)(value) for value in (0.5, 0.00012345, 0.0, 123456.0)] == [
        "0.5000",
        "0.0001234",
        "0.0000",
        "1.235e+05",
    ]
    seconds = (2e-4, 0.0057, 0.25, 1.5, 100.0, 600.0, 36000.0)
    assert [duration(value)(value) for value in seconds] == [
        "200 µs",
        "5.7 ms",
        "250 ms",
        "1.50 s",
        "100.0 s",
        "10.0 min",
        "10.0 h",
    ]
    assert [memory(value)(value) for value in (345 * 2**20, 5 * 2**29)] == ["345 MiB", "2.50 GiB"]


def test_the_spread_over_seeds():
    assert Spread.of([]) is None
    assert Spread.of([0.5]).text(plain(0.5)) == "0.5000"
    assert Spread.of([0.004, 0.006]) == Spread(0.005, pytest.approx(0.0014142135), 2)
    assert Spread.of([0.004, 0.006]).text(duration(0.005)) == "5.0 ± 1.4 ms"
