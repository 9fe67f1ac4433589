"""Metrics as they are on file."""

import pytest

from tests.report.folders import rows, run
from ts_lightning.report import History, Point
from ts_lightning.report.history import means


def names(metrics):
    return [metric.name for metric in metrics]


def test_the_clocks_columns_place_what_is_measured(tmp_path):
    table = [{"step": 9, "train/loss": 0.5}, *rows("test/loss", [0.4, 0.3])]
    history = run(tmp_path, table).history
    assert history.points("test/loss") == [Point(10, 0.4, 0.2), Point(20, 0.3, 0.4)]
    assert history.points("train/loss") == [Point(9, 0.5, None)]


def test_without_the_clock_validation_counts_the_step_that_lightning_has_not(tmp_path):
    table = [
        {"step": 0, "epoch": 0, "train_loss": 2.0},
        {"step": 9, "epoch": 0, "val_loss": 1.0},
        {"step": 20, "epoch": 1, "test_loss": 0.5},
    ]
    history = run(tmp_path, table).history
    assert history.points("train_loss") == [Point(0, 2.0)]
    assert history.points("val_loss") == [Point(10, 1.0)]
    assert history.points("test_loss") == [Point(20, 0.5)]


def test_lightnings_own_files_are_read_as_lightning_counts(tmp_path):
    """Against a real CSVLogger: the loss logged at a step is the number of updates made before it."""
    import torch
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.loggers import CSVLogger

    class Counter(LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def training_step(self, batch, batch_idx):
            self.log("train_updates", self.weight.detach(), on_step=True)
            return -self.weight

        def validation_step(self, batch, batch_idx):
            self.log("val_updates", self.weight)

        def test_step(self, batch, batch_idx):
            self.log("test_updates", self.weight)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1.0)

    batches = torch.utils.data.DataLoader(torch.zeros(4, 1))
    trainer = Trainer(
        max_epochs=2,
        logger=CSVLogger(tmp_path, name="", version=""),
        log_every_n_steps=1,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model := Counter(), batches, batches)
    trainer.test(model, batches, verbose=False)
    history = History.read(tmp_path / "metrics.csv")
    assert history.points("train_updates") == [Point(made, made) for made in range(8)]
    assert history.points("val_updates") == [Point(4, 4.0), Point(8, 8.0)]
    assert history.points("test_updates") == [Point(8, 8.0)]
    assert set(names(history.measured)) == {"val_updates", "test_updates"}


def test_bookkeeping_and_monitors_are_no_metrics(tmp_path):
    table = [
        {"step": 0, "epoch": 0, "loss": 1.0, "lr-Adam": 0.1, "target_space/residual/net.0": 0.2},
        {"step": 0, "steps": 1.0, "seconds": 0.1, "f1": 0.5},
    ]
    history = run(tmp_path, table).history
    assert sorted(names(history.metrics)) == ["f1", "loss"]
    assert names(history.measured) == ["f1"]  # beside the clock's columns, so measured in validation


def test_what_is_measured_is_of_training_where_nothing_else_is(tmp_path):
    assert names(run(tmp_path, [{"step": 0, "loss": 1.0}]).history.measured) == ["loss"]


def test_best_and_final(tmp_path):
    table = rows("test/accuracy", [0.5, 0.9, 0.9, 0.7]) + rows("test/loss", [0.5, 0.2, float("nan"), 0.4])
    history = run(tmp_path, table).history
    assert history.best("test/accuracy") == Point(20, 0.9, 0.4)
    assert history.final("test/accuracy").value == 0.7
    assert history.best("test/loss").value == 0.2


def test_a_later_row_of_the_same_step_counts(tmp_path):
    table = [*rows("test/loss", [0.4, 0.3]), {"step": 20, "steps": 20.0, "seconds": 0.4, "test/loss": 0.25}]
    assert [point.value for point in run(tmp_path, table).history.points("test/loss")] == [0.4, 0.25]


def test_nothing_on_file(tmp_path):
    history = run(tmp_path).history
    assert history.metrics == history.measured == history.points("loss") == []
    assert history.best("loss") is history.final("loss") is None
    (tmp_path / "metrics.csv").write_text("")
    assert History.read(tmp_path / "metrics.csv").metrics == []


def test_a_row_cut_short_and_text_in_the_place_of_a_number(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,step,loss\n0,0,1.5\n0,1,hello\n0,2,1.0\n0,3")
    assert History.read(tmp_path / "metrics.csv").points("loss") == [Point(0, 1.5), Point(2, 1.0)]


def test_layers_come_in_the_order_of_their_numbers(tmp_path):
    table = [{"step": 4, **{f"target_space/rank/net.{i}": float(i) for i in (10, 2, 0)}}]
    layers = run(tmp_path, table).history.layers("rank")
    assert list(layers) == ["net.0", "net.2", "net.10"]
    assert layers["net.10"] == [Point(4, 10.0)]


@pytest.mark.parametrize(("count", "groups"), [(0, 0), (150, 150), (151, 76), (1000, 143)])
def test_many_points_are_drawn_as_few(count, groups):
    points = [Point(i, float(i)) for i in range(count)]
    found = means(points)
    assert len(found) == groups
    assert [point for group in found for point in group] == points
