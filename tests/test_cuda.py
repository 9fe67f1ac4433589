"""The same on a CUDA device: exact gradients, and a short fit."""

import pytest
import torch

from tests.exactness import check_exact
from tests.fits import Lit, build, data, fit
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


def test_fit():
    model = build(Lit)
    state = torch.cuda.get_rng_state()
    fit(model, accelerator="gpu", max_epochs=60)
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert all(target.is_cuda for target in model.target_space_engine.targets.values())
    with torch.no_grad():
        assert float(model.loss(data())) < 0.85 * model.losses[0]
