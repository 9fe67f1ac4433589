"""TargetSpaceMonitor on Weights & Biases, offline: what the run's file holds."""

import json
import struct

import pytest
import torch
from lightning.pytorch.loggers import WandbLogger

from tests.fits import build, fit, loader
from ts_lightning import TargetSpaceMonitor
from ts_lightning.histograms import histograms

wandb = pytest.importorskip("wandb")

BLOCK, HEADER = 32768, 7  # of the log format of LevelDB, in which W&B writes


def records(path):
    """The protocol buffers in a .wandb file."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts = path.read_bytes(), HEADER, b""  # behind the file's own header
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK  # too short for another chunk
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + HEADER])
        parts += data[at + HEADER : at + HEADER + size]
        at += HEADER + size
        if kind in (1, 4):  # whole, or the last chunk
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def history(folder):
    """What was logged, one dictionary a call."""
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            row = {}
            for item in record.history.item:
                *outer, key = item.nested_key or [item.key]
                into = row.setdefault(outer[0], {}) if outer else row  # a histogram is a dictionary
                into[key] = json.loads(item.value_json)
            yield row


def test_scalars_and_histograms(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    model = build()
    logger = WandbLogger(save_dir=tmp_path, offline=True)
    fit(model, loader(16), logger=logger, callbacks=[TargetSpaceMonitor(2)], log_every_n_steps=2)
    wandb.teardown()  # finishes the run and waits until its file is written
    rows = [row for row in history(tmp_path) if any(key.startswith("target_space/") for key in row)]
    scalars = [row for row in rows if "target_space/residual/net.0" in row]
    panels = [row for row in rows if "target_space/targets/net.0" in row]
    steps = [row["trainer/global_step"] for row in scalars]
    assert steps == [row["trainer/global_step"] for row in panels] == [1, 3, 5, 7]
    for quantity in ("condition", "rank", "ridge", "weight_norm", "target_norm", "target_gradient_norm"):
        assert all(isinstance(row[f"target_space/{quantity}/net.4"], float) for row in scalars)
    assert all(0 < row["target_space/share/solve"] < 1 for row in scalars)
    expected = histograms(model.target_space_engine)
    for (kind, name), (counts, edges) in expected.items():
        found = panels[-1][f"target_space/{kind}/{name}"]
        assert found["_type"] == "histogram"
        assert found["values"] == counts.tolist()
        torch.testing.assert_close(torch.tensor(found["bins"]), edges)
