"""Several processes leave target space together, and go on as one process does."""

import os
from dataclasses import replace

import torch

from tests.support.fits import assert_equal
from tests.support.processes import run
from tests.support.resuming import CONFIG, Resumable, build, every_step, fit


def training(folder, ckpt_path=None):
    """Weights of a training in float64 that leaves target space behind the fifth of twelve steps."""
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    model = build(seed=3 if ckpt_path else 0, batch_norm=False, dtype=torch.float64, lr=0.005)
    model.target_space = replace(CONFIG, until=5)
    several = {"strategy": "ddp", "devices": ranks, "use_distributed_sampler": False} if ranks > 1 else {}
    batches = Resumable(rank=rank, ranks=ranks)
    fit(model, batches, callbacks=[every_step(folder)], ckpt_path=ckpt_path, **several)
    assert model.target_space_engine is None
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_ranks_end_as_one_process(tmp_path):
    expected = run(training, tmp_path / "one")[0]
    found = run(training, tmp_path / "two", ranks=2)
    assert_equal(found[1], found[0])
    for name, value in expected.items():
        torch.testing.assert_close(found[0][name], value, rtol=1e-10, atol=1e-11)
    for step in (4, 8):
        again = run(training, tmp_path / f"again{step}", ckpt_path=tmp_path / "two" / f"step={step}.ckpt", ranks=2)
        assert_equal(again[0], found[0])
