"""TargetSpaceMonitor on Weights & Biases, offline: what the run's file holds."""

import pytest
import torch
from lightning.pytorch.loggers import WandbLogger

from tests.support.fits import build, fit, loader
from tests.support.offline import records, rows
from ts_lightning import TargetSpaceMonitor
from ts_lightning.callbacks.histograms import histograms

wandb = pytest.importorskip("wandb")


def test_scalars_and_histograms(offline):
    model = build()
    logger = WandbLogger(save_dir=offline)
    fit(model, loader(16), logger=logger, callbacks=[TargetSpaceMonitor(2)], log_every_n_steps=2)
    wandb.finish()
    logged = rows(records(offline))
    scalars = [row for row in logged if "target_space/residual/net.0" in row]
    panels = [row for row in logged if "target_space/targets/net.0/bins" in row]
    steps = [row["trainer/global_step"] for row in scalars]
    assert steps == [row["trainer/global_step"] for row in panels] == [1, 3, 5, 7]
    for quantity in ("condition", "rank", "ridge", "weight_norm", "target_norm", "target_gradient_norm"):
        assert all(isinstance(row[f"target_space/{quantity}/net.4"], float) for row in scalars)
    assert all(0 < row["target_space/share/solve"] < 1 for row in scalars)
    expected = histograms(model.target_space_engine)
    for (kind, name), (counts, edges) in expected.items():
        panel = f"target_space/{kind}/{name}"
        assert panels[-1][f"{panel}/_type"] == "histogram"
        assert panels[-1][f"{panel}/values"] == counts.tolist()
        torch.testing.assert_close(torch.tensor(panels[-1][f"{panel}/bins"]), edges)
