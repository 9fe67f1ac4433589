"""Verdicts: what was reached, by test data where there are some, and what several seeds can tell."""

import pytest

from tests.report.folders import rows, run
from ts_lightning.report import Comparison, Trial, Tuning, verdict, write_comparison_page
from ts_lightning.report.compare_table import notes
from ts_lightning.report.metric import Metric
from ts_lightning.report.verdict import verdict_of_a_run

STEP = {"target": 0.0042, "weight": 0.003}


def compared(folder, target, weight, metric="test/accuracy", **changes):
    """A comparison whose seeds end at these values."""
    runs = [
        run(folder / f"{space}{seed}", rows(metric, [0.1, value]), space=space, step_seconds=STEP[space], **changes)
        for space, values in (("target", target), ("weight", weight))
        for seed, value in enumerate(values)
    ]
    return Comparison.of(runs)


def test_one_seed_says_what_was_reached_and_not_who_is_ahead(tmp_path):
    assert verdict(compared(tmp_path, [0.702], [0.638])) == (
        "Test accuracy: target space 70.2 % after 100 steps, weight space 63.8 % (one seed); 1.4 times the time a step."
    )


@pytest.mark.parametrize(
    ("target", "weight", "metric", "said"),
    [
        ([0.70, 0.72], [0.60, 0.61], "val_acc", "Target space is ahead in val acc: target space 71.0 %"),
        ([0.60, 0.61], [0.70, 0.72], "val_acc", "Weight space is ahead in val acc"),
        ([0.60, 0.61], [0.70, 0.72], "val_loss", "Target space is ahead in val loss: target space 0.6050 after"),
        ([0.60, 0.70], [0.60, 0.71], "val_acc", "No clear difference in val acc"),
        ([float("nan"), 0.7], [0.60, 0.71], "val_loss", "A space diverged in val loss"),
    ],
)
def test_several_seeds_tell_who_is_ahead(target, weight, metric, said, tmp_path):
    text = verdict(compared(tmp_path, target, weight, metric))
    assert text.startswith(said)
    assert "(means of 2 seeds)" in text


@pytest.mark.parametrize(
    ("target", "weight", "metric", "said"),
    [
        (
            [0.5, 0.8, 0.9],
            [0.4, 0.6, 0.7],
            "val_acc",
            "Weight space's best val acc, 70.0 %, was reached after 20 steps in ",
        ),
        (
            [0.4, 0.6, 0.7],
            [0.5, 0.8, 0.9],
            "val_acc",
            "Target space's best val acc, 70.0 %, was reached after 30 steps in ",
        ),
        (
            [3.0, 2.0, 1.0],
            [3.5, 2.5, 2.4],
            "val_loss",
            "Weight space's best val loss, 2.4000, was reached after 20 steps in ",
        ),
        (
            [0.7, 0.6, 0.5],
            [0.1, 0.2, float("nan")],
            "val_acc",
            "Weight space's best val acc, 20.0 %, was reached after 10 ",
        ),
    ],
)
def test_it_says_after_how_many_steps_each_space_had_the_lesser_of_the_bests(target, weight, metric, said, tmp_path):
    both = [run(tmp_path / s, rows(metric, values), space=s) for s, values in (("target", target), ("weight", weight))]
    text = verdict(Comparison.of(both))
    assert said in text
    assert text.endswith("in weight space.")


def test_two_measurements_do_not_tell_how_soon(tmp_path):
    assert "was reached" not in verdict(compared(tmp_path, [0.9], [0.8]))


def test_the_test_data_judge_where_validation_is_watched(tmp_path):
    both = [
        run(
            tmp_path / space,
            [*rows("val/accuracy", [0.1, value]), {"step": 19, "steps": 20.0, "test/accuracy": value - 0.1}],
            space=space,
        )
        for space, value in (("target", 0.9), ("weight", 0.8))
    ]
    comparison = Comparison.of(both)
    assert comparison.metric.name == "val/accuracy"
    assert "Test accuracy: target space 80.0 % after 100 steps, weight space 70.0 %" in verdict(comparison)
    assert verdict_of_a_run(both[0]) == (
        "Test accuracy is 80.0 % after 100 steps and 2.00 s of training in target space."
    )


def test_runs_of_different_length_say_both(tmp_path):
    both = [
        run(tmp_path / space, rows("val_acc", [0.5]), space=space, steps=steps)
        for space, steps in (("target", 50), ("weight", 1000))
    ]
    assert "target space 50.0 % after 50 steps, weight space 50.0 % after 1,000 steps" in verdict(Comparison.of(both))


def test_a_space_that_measured_nothing_has_no_verdict(tmp_path):
    both = [run(tmp_path / "a", rows("val_acc", [0.5])), run(tmp_path / "b", space="weight")]
    assert verdict(Comparison.of(both)) == "No verdict: val acc was not measured in weight space."


def tuned(folder, target, weight, metric="val_acc"):
    """Trials that ended at these values, by increasing learning rate."""
    trials = {
        space: [
            Trial(0.001 * (i + 1), run(folder / f"{space}-{i}", rows(metric, [0.2, value]), space=space))
            for i, value in enumerate(values)
        ]
        for space, values in (("target", target), ("weight", weight))
    }
    return Tuning(Metric.of(metric), 0, **trials)


def test_the_learning_rate_of_the_best_last_value_is_chosen(tmp_path):
    tuning = tuned(tmp_path, [0.5, 0.9, 0.7], [0.8, 0.5, float("nan")])
    assert [tuning.chosen(space).lr for space in ("target", "weight")] == [0.002, 0.001]
    chosen, edge = tuning.notes()
    assert chosen.startswith(
        "Learning rates: 0.002 in target space and 0.001 in weight space, each the best of 0.001, "
    )
    assert "the same 3 trials for both" in chosen
    assert edge == "That of weight space is the smallest that was tried: the best may lie beyond it."
    assert tuning.rows() == [("0.001", "0.5", "0.8"), ("0.002", "0.9", "0.5"), ("0.003", "0.7", "nan")]
    alone = tuned(tmp_path / "alone", [0.5], [0.8], "test/accuracy")
    assert alone.notes() == ["Learning rate: 0.001 in both spaces, the only one that was tried."]
    falls = tuned(tmp_path / "loss", [0.5, 0.9, 0.7], [0.8, 0.5, float("nan")], "val_loss")
    assert [falls.chosen(space).lr for space in ("target", "weight")] == [0.001, 0.002]


def test_a_choice_without_validation_data_is_said(tmp_path):
    notes_of = tuned(tmp_path, [0.5, 0.9, 0.7], [0.8, 0.9, 0.1], "test_acc").notes()
    assert notes_of[1:] == ["There is no validation data: they were chosen on test data, which flatters both."]


def test_the_page_starts_with_the_verdict_and_shows_the_trials(tmp_path):
    tuning = tuned(tmp_path, [0.5, 0.9, 0.7], [0.8, 0.9, 0.1])
    runs = [tuning.chosen(space).run for space in ("target", "weight")]
    comparison = Comparison.of(runs, tuning=tuning)
    page = write_comparison_page(comparison, tmp_path).read_text()
    head = page.index("<header>")
    assert head < page.index(verdict(comparison)) < page.index("<section>")
    assert "Learning rates tried" in page
    assert notes(comparison)[0] == tuning.notes()[0]


@pytest.mark.parametrize(
    ("until", "spaces"),
    [
        (None, "target space"),
        (5, "target space for 5 steps, then weight space"),
        (100, "target space"),  # it would have ended ahead of the next step
        (2000, "target space"),
    ],
)
def test_a_run_whose_target_space_ended_says_so(until, spaces, tmp_path):
    made = run(tmp_path / "run", rows("test/accuracy", [0.1, 0.9]), until=until)
    assert verdict_of_a_run(made).endswith(f"of training in {spaces}.")
