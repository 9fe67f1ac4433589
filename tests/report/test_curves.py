"""The figure of a run."""

import pytest
from matplotlib.figure import Figure

from tests.report.folders import rows, run
from ts_lightning.report import draw_run
from ts_lightning.report.curves import draw_quantity, quantities
from ts_lightning.report.drawing import axes, markers


def drawn(folder, table, **changes):
    found = run(folder, table, **changes)
    panel = Figure().subplots()
    [metrics] = quantities(found.history).values()
    draw_quantity(panel, found.history, metrics)
    return panel


def lines(panel):
    return {line.get_label(): [tuple(point) for point in line.get_xydata()] for line in panel.get_lines()}


def test_training_and_test_of_one_quantity_share_a_panel(tmp_path):
    table = [{"step": 0, "lr-Adam": 0.1, "train_loss_step": 1.0, "zeta": 1.0}, {"step": 9, "train_loss_epoch": 1.0}]
    table += rows("val_loss", [1.0]) + rows("test/accuracy", [0.5]) + rows("val_f1", [0.5])
    found = {name: [m.name for m in metrics] for name, metrics in quantities(run(tmp_path, table).history).items()}
    assert list(found) == ["accuracy", "loss", "f1", "zeta"]
    assert set(found["loss"]) == {"train_loss_step", "train_loss_epoch", "val_loss"}


def test_lines_go_through_the_values(tmp_path):
    table = [{"step": i, "train/loss": 1.0 + i} for i in range(3)] + rows("test/loss", [5.0, 4.0])
    panel = drawn(tmp_path, table)
    assert lines(panel) == {"training": [(0, 1), (1, 2), (2, 3)], "test": [(10, 5), (20, 4)]}
    assert panel.get_xlim()[0] == 0


def test_many_training_values_are_means_and_ranges(tmp_path):
    panel = drawn(tmp_path, [{"step": i, "train/acc": float(i % 2)} for i in range(300)])
    [(label, points)] = lines(panel).items()
    assert label == "training (mean and range of 2)"
    assert set(points) == {(2 * i + 0.5, 0.5) for i in range(150)}
    assert len(panel.collections) == 1


@pytest.mark.parametrize(
    ("name", "values", "scale"),
    [
        ("test/loss", [1.0, 0.05], "log"),
        ("test/loss", [1.0, 0.2], "linear"),
        ("test/loss", [1.0, 0.0], "linear"),
        ("test/loss", [1.0, float("nan"), 0.05], "log"),
        ("test/accuracy", [1.0, 0.05], "linear"),
    ],
)
def test_losses_over_more_than_a_decade_have_a_logarithmic_axis(name, values, scale, tmp_path):
    assert drawn(tmp_path, rows(name, values)).get_yscale() == scale


def test_the_figure_has_at_most_four_panels(tmp_path):
    table = [row for name in "abcdef" for row in rows(f"val_{name}", [1.0, 2.0])]
    draw_run(run(tmp_path, table, title="a < b & $c"))
    assert (tmp_path / "figure.png").stat().st_size < 150_000
    drawn = (tmp_path / "figure.svg").read_text()
    assert drawn.count(">steps</text>") == 4
    assert "a &lt; b &amp; $c" in drawn


def test_a_run_without_metrics_has_a_figure_that_says_so(tmp_path):
    draw_run(run(tmp_path))
    assert "nothing was measured" in (tmp_path / "figure.svg").read_text()


def test_a_single_observation_at_the_first_step_has_an_axis_around_it():
    """The axis ended at step 0.05, and the value was half hidden by the frame."""
    panel = Figure().subplots()
    panel.plot([0], [3.5], marker="o")
    axes(panel, [3.5])
    assert panel.get_xlim() == (0, 1)


@pytest.mark.parametrize("value", [1e-3, -1e-3])
def test_values_that_are_one_but_for_rounding_have_an_axis_of_their_size(value):
    """Ticks were 1e-11 + 1e-3."""
    panel = Figure().subplots()
    panel.plot([0, 10], [value, value * (1 + 1e-8)])
    axes(panel, [value, value * (1 + 1e-8)])
    low, high = panel.get_ylim()
    assert low < value < high
    assert high - low == pytest.approx(0.2 * abs(value))


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("values", "few", "expected"),
    [
        ([1.0], 1, {"marker": "o"}),
        ([1.0, 2.0], 1, {}),
        ([1.0, NAN, 2.0], 1, {"marker": "o", "markevery": [0, 2]}),
        ([1.0, 2.0, NAN, 3.0, INF, 4.0, 5.0], 2, {"marker": "o", "markevery": [3]}),
        ([NAN, NAN], 1, {}),
        ([], 1, {"marker": "o"}),
    ],
)
def test_a_value_that_no_line_reaches_has_a_marker(values, few, expected):
    """Of a metric that is NaN in every other epoch a figure showed nothing."""
    assert markers(values, few) == expected
