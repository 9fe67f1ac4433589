"""Both spaces compared: levels, spread over seeds, and what was not reached."""

import re

import pytest

from tests.report.folders import rows, run
from ts_lightning.errors import SettingError
from ts_lightning.report import Comparison, Point, comparison_table, draw_comparison
from ts_lightning.report.compare_table import notes
from ts_lightning.report.compare_table import rows as table_rows
from ts_lightning.report.levels import default_levels, first_at
from ts_lightning.report.metric import Metric

ACCURACY, LOSS = Metric.of("test/accuracy"), Metric.of("test/loss")


def points(values):
    return [Point(10 * i, value, 0.2 * i) for i, value in enumerate(values, 1)]


def runs(tmp_path, target, weight, metric="test/accuracy", **changes):
    """Runs of both spaces, one for each list of values; a step in weight space takes half the time."""
    costs = {"target": (0.02, 0.004), "weight": (0.01, 0.002)}
    return [
        run(
            tmp_path / f"{space}{seed}",
            rows(metric, values, seconds=costs[space][0]),
            space=space,
            step_seconds=costs[space][1],
            **changes,
        )
        for space, curves in (("target", target), ("weight", weight))
        for seed, values in enumerate(curves)
    ]


def cells(comparison):
    return {row.label: (row.target, row.weight, row.ratio) for row in table_rows(comparison)}


def test_a_level_is_reached_where_it_was_first_measured():
    assert first_at(points([0.5, 0.9, 0.6, 0.95]), ACCURACY, 0.9) == Point(20, 0.9, 0.4)
    assert first_at(points([0.5, 0.1, 0.6]), LOSS, 0.2).step == 20
    assert first_at(points([0.5, float("nan")]), LOSS, 0.2) is None
    assert first_at([], LOSS, 0.2) is None


def test_default_levels_of_an_accuracy():
    weight, target = [points([0.5, 0.6, 0.72]), points([0.5, 0.7, 0.69])], [points([0.5, 0.983])]
    # half, four fifths and all of the way to the mean best of weight space, 0.71; and the best of target space
    assert default_levels(ACCURACY, [target, weight]) == [0.6, 0.66, 0.71, 0.98]
    assert default_levels(ACCURACY, [weight, target]) == [0.6, 0.66, 0.71, 0.98]


@pytest.mark.parametrize(
    ("start", "worse", "better", "levels"),
    [
        (0.3625, 0.401, 0.609, [0.38, 0.39, 0.4, 0.6]),
        (0.98, 0.995, 0.996, [0.987, 0.992, 0.995, 0.996]),  # two digits would be one level
        (36.25, 40.1, 60.9, [38, 39, 40, 60]),
    ],
)
def test_default_levels_have_two_digits_or_as_many_as_tell_them_apart(start, worse, better, levels):
    assert default_levels(ACCURACY, [[points([start, better])], [points([start, worse])]]) == levels


def test_default_levels_of_a_loss_are_divided_in_factors():
    target, weight = [points([1.0, 0.001])], [points([1.0, 0.01, 0.5])]
    assert default_levels(LOSS, [target, weight]) == [0.1, 0.026, 0.01, 0.001]


def test_default_levels_of_a_loss_that_may_be_negative():
    assert default_levels(LOSS, [[points([1.0, -1.0])], [points([1.0, 0.0])]]) == [0.5, 0.2, 0.0, -1.0]


@pytest.mark.parametrize(
    ("metric", "start", "worse", "better"), [(ACCURACY, 0.1, 0.54321, 0.98765), (LOSS, 2.3, 0.98765, 0.0123456)]
)
def test_one_space_reaches_every_default_level_and_the_other_all_but_the_last(metric, start, worse, better):
    levels = default_levels(metric, [[points([start, better])], [points([start, worse])]])
    assert [metric.reaches(better, level) for level in levels] == [True] * 4
    assert [metric.reaches(worse, level) for level in levels] == [True] * 3 + [False]


def test_default_levels_where_nothing_is_learnt_or_measured():
    assert default_levels(ACCURACY, [[points([0.5, 0.5])], [points([0.5])]]) == [0.5]
    assert default_levels(ACCURACY, [[points([float("nan")])], [[]]]) == []
    assert default_levels(ACCURACY, [[points([0.5, 0.7])], []]) == [0.6, 0.66, 0.7]


def test_means_spreads_and_ratios(tmp_path):
    target, weight = [[0.5, 0.9, 0.8], [0.5, 0.7, 1.0]], [[0.5, 0.6, 0.7], [0.5, 0.5, 0.7]]
    found = cells(Comparison.of(runs(tmp_path, target, weight), levels=[0.7, 0.6]))
    assert list(found)[2:4] == ["steps to 0.6", "steps to 0.7"]
    assert found["final test accuracy"] == ("0.9000 ± 0.1414", "0.7000 ± 0.0000", "")
    assert found["best test accuracy"][0] == "0.9500 ± 0.0707"
    assert found["steps to 0.6"] == ("20 ± 0", "25 ± 7", "0.80")
    assert found["time to 0.6"] == ("400 ± 0 ms", "250 ± 71 ms", "1.60")
    assert found["time per step"] == ("4.0 ± 0.0 ms", "2.0 ± 0.0 ms", "2.00")
    assert "memory added" not in found


def test_a_row_has_one_unit(tmp_path):
    both = [
        run(tmp_path / "a", rows("val_acc", [0.5]), seconds=300.0, step_seconds=0.15, peak_memory=3 * 2**29),
        run(tmp_path / "b", rows("val_acc", [0.5]), space="weight", seconds=90.0, step_seconds=0.05, peak_memory=2**29),
    ]
    found = cells(Comparison.of(both))
    assert found["training time"] == ("5.0 min", "1.5 min", "3.33")
    assert found["time per step"] == ("150 ms", "50 ms", "3.00")
    assert found["memory added"] == ("1.50 GiB", "0.50 GiB", "3.00")


def test_a_loss_is_compared_downwards(tmp_path):
    found = cells(Comparison.of(runs(tmp_path, [[2.0, 0.1]], [[2.0, 1.0]], "val_loss"), levels=[0.5, 1.0]))
    assert found["best val loss"] == ("0.1000", "1.0000", "")
    assert list(found)[2:4] == ["steps to 1", "steps to 0.5"]
    assert found["steps to 1"] == ("20", "20", "1.00")
    assert found["steps to 0.5"] == ("20", "not reached", "")


def test_what_some_seeds_do_not_reach_is_said(tmp_path):
    comparison = Comparison.of(runs(tmp_path, [[0.9, 0.9], [0.5, 0.9], [0.5, 0.5]], [[0.5, 0.5]] * 2), levels=[0.9])
    assert cells(comparison)["steps to 0.9"] == ("15 ± 7 (2 of 3 seeds)", "not reached (0 of 2 seeds)", "")
    assert any("lower bound" in note for note in notes(comparison))
    assert "both spaces, 3 and 2 seeds" in comparison_table(comparison)


def test_one_seed_has_no_spread(tmp_path):
    text = comparison_table(Comparison.of(runs(tmp_path, [[0.5, 0.9]], [[0.5, 0.8]])))
    assert "±" not in text
    assert "both spaces, 1 seed\n" in text
    assert re.search(r"^final test accuracy +0\.9000 +0\.8000$", text, re.M)


def test_the_title_is_what_the_runs_have_in_common(tmp_path):
    assert Comparison.of(runs(tmp_path, [[0.9]], [[0.8]])).title == "spirals"
    assert Comparison.of(runs(tmp_path, [[0.9]], [[0.8]]), title="mine").title == "mine"


def test_an_accuracy_is_watched_else_a_loss_else_what_there_is(tmp_path):
    def watched(*names):
        folder = tmp_path / "-".join(names)
        return Comparison.of(
            [
                run(folder / space, [row for name in names for row in rows(name, [0.5])], space=space)
                for space in ("target", "weight")
            ]
        ).metric.name

    assert watched("val_loss", "val_acc", "train_acc") == "val_acc"
    assert watched("val_f1", "val_loss") == "val_loss"
    assert watched("val_f1") == "val_f1"
    assert watched("train_loss") == "train_loss"


def test_of_two_accuracies_the_one_measured_more_often_is_watched(tmp_path):
    both = [
        run(tmp_path / space, rows("test_acc", [0.5]) + rows("val_acc", [0.1, 0.2]), space=space)
        for space in ("target", "weight")
    ]
    assert Comparison.of(both).metric.name == "val_acc"
    assert Comparison.of(both, "test_acc").metric.name == "test_acc"


def test_what_cannot_be_compared(tmp_path):
    both = runs(tmp_path, [[0.9]], [[0.8]])
    with pytest.raises(SettingError, match="no run in weight space among 1"):
        Comparison.of(both[:1])
    with pytest.raises(SettingError, match="metric 'bleu': found test/accuracy"):
        Comparison.of(both, "bleu")
    with pytest.raises(SettingError, match="found no metrics"):
        Comparison.of([run(tmp_path / f"empty_{space}", space=space) for space in ("target", "weight")])


def test_a_space_that_measured_nothing(tmp_path):
    both = [run(tmp_path / "a", rows("val_acc", [0.5, 0.7])), run(tmp_path / "b", space="weight", interrupted=True)]
    comparison = Comparison.of(both)
    assert cells(comparison)["final val acc"] == ("0.7000", "not measured", "")
    assert cells(comparison)["steps to 0.7"] == ("20", "not reached", "")
    assert "Interrupted in weight space: 1 of 1 seed." in notes(comparison)
    draw_comparison(comparison, tmp_path)


def test_the_mean_curve_is_over_the_steps_at_which_all_seeds_were_measured(tmp_path):
    comparison = Comparison.of(runs(tmp_path, [[0.5, 0.7, 0.9], [0.6, 0.8]], [[0.5]]))
    mean = comparison.target.mean("test/accuracy")
    assert mean == [Point(10, pytest.approx(0.55), 0.2), Point(20, pytest.approx(0.75), 0.4)]


def test_the_figure_is_written_as_png_and_svg(tmp_path):
    comparison = Comparison.of(
        runs(tmp_path, [[0.5, 0.9], [0.5, 0.8]], [[0.5, 0.6], [0.5, 0.6]]), title="costs $5 or $"
    )
    draw_comparison(comparison, tmp_path)
    assert (tmp_path / "comparison.png").stat().st_size < 150_000
    drawn = (tmp_path / "comparison.svg").read_text()
    for text in ("target space, mean of 2 seeds", "weight space, mean of 2 seeds", "test accuracy against seconds"):
        assert text in drawn
    assert "costs $5 or $: target space and weight space" in drawn
