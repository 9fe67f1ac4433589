"""The same on a CUDA device: exact gradients, short fits in every precision, and resuming bit for bit."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from tests.exactness import check_exact
from tests.fits import Lit, assert_equal, build, data, fit
from tests.nets import Conv, Dense, loss_on
from ts_lightning import ReferenceConfig, TargetSpaceConfig

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("rows", ["all", 20])
@pytest.mark.parametrize(
    "make", [lambda: Dense(3, 6, 3, 3, norm=True), lambda: Conv(2, 3, 4, 3, kernel_size=3, padding=1)]
)
def test_exact(make, rows):
    torch.manual_seed(0)
    model = make().to("cuda", torch.float64)
    shape = (24, 3) if isinstance(model, Dense) else (6, 3, 5, 4)
    reference, x = (torch.randn(shape, dtype=torch.float64, device="cuda") for _ in range(2))
    y = torch.arange(len(x), device="cuda") % 3
    check_exact(model, (reference,), loss_on(x, y), TargetSpaceConfig(reference=ReferenceConfig(rows=rows)))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true"])
def test_fit(precision):
    model = build(Lit)
    state = torch.cuda.get_rng_state()
    fit(model, accelerator="gpu", max_epochs=60, precision=precision)
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert all(target.is_cuda for target in model.target_space_engine.targets.values())
    with torch.no_grad():
        assert float(model.float().loss(data())) < 0.85 * model.losses[0]


@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_resuming(precision, tmp_path):
    """From the end of the second epoch."""
    options = {"accelerator": "gpu", "precision": precision, "max_epochs": 4, "deterministic": True}
    model, resumed = build(Lit, norm=True), build(Lit, norm=True, seed=3)
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=8, save_top_k=-1)
    fit(model, callbacks=[keep], enable_checkpointing=True, **options)
    fit(resumed, ckpt_path=tmp_path / "step=8.ckpt", **options)
    assert_equal(resumed, model)
