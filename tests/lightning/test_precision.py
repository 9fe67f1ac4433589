"""Precisions: what is of which, scaled gradients, skipped steps, and a solve that no setting reaches."""

import statistics

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision

from tests.support.fits import CONFIG, Lit, Plain, assert_equal, assert_solved, build, data, fit, loader, trainer
from tests.support.manual import Manual
from ts_lightning import TargetSpace
from ts_lightning.ridge.precision import full_precision


@pytest.mark.parametrize(
    ("precision", "weights", "targets"),
    [
        ("32-true", torch.float32, torch.float32),
        ("bf16-mixed", torch.float32, torch.float32),
        ("bf16-true", torch.bfloat16, torch.float32),
        ("64-true", torch.float64, torch.float64),
    ],
)
def test_trains(precision, weights, targets):
    model = build(norm=True)
    fit(model, max_epochs=30, precision=precision)  # on some processors bfloat16 is not there by 20
    assert {p.dtype for p in model.parameters()} == {weights}
    assert {t.dtype for t in model.target_space_engine.targets.values()} == {targets}
    last = model.losses[-5 * len(loader()) :]  # five epochs, since in bfloat16 a single one rests on luck
    assert statistics.median(last) < 0.4 * model.losses[0]


def scaled(scale, **options):
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=10**6, **options)
    return MixedPrecision("16-mixed", "cpu", scaler=scaler)


def test_a_gradient_scaler_changes_nothing():
    """Pulling back behind the unscaling would leave the targets' gradients too large by the scale."""
    models = []
    for scale in (1.0, 2.0**10):
        model = build(norm=True, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
        trainer(plugins=[scaled(scale)], max_epochs=1, limit_train_batches=1).fit(model, loader())
        models.append(model)
    for value, expected in zip(models[1].parameters(), models[0].parameters(), strict=True):
        torch.testing.assert_close(value, expected, rtol=0.02, atol=2e-3)
    assert not torch.equal(models[0].net[0].weight, build(norm=True).net[0].weight)


def test_overflow_skips_the_step():
    class Watched(Lit):
        states = ()

        def on_train_batch_end(self, outputs, batch, batch_idx):
            self.states += ([t.detach().clone() for t in self.target_space_engine.targets.values()],)

    model = build(Watched)
    plugin = scaled(2.0**80)
    trainer(plugins=[plugin], max_epochs=40).fit(model, loader())
    scales = len([1 for a, b in zip(model.states, model.states[1:], strict=False) if torch.equal(a[0], b[0])])
    assert scales > 20  # halved until it fits
    assert plugin.scaler.get_scale() < 2.0**30
    assert all(t.isfinite().all() for t in model.states[-1])
    assert not torch.equal(model.states[-1][0], model.states[0][0])
    assert_solved(model)


def test_autocast_reaches_neither_the_solve_nor_the_pullback():
    """Manual optimisation steps inside the training step's autocast, automatic optimisation behind it."""
    models = [build(cls) for cls in (Lit, Manual)]
    for model in models:
        fit(model, max_epochs=3, precision="bf16-mixed")
        assert_solved(model)
    assert_equal(models[1], models[0])


@pytest.fixture
def kept():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("level", ["highest", "high", "medium"])
def test_reduced_float32_never_reaches_the_solve(level):
    seen = []

    class Watched(Plain):
        def forward(self, x):
            seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
            return super().forward(x)

    torch.set_float32_matmul_precision(level)
    tf32 = torch.backends.cudnn.allow_tf32
    model = build(Watched)
    space = TargetSpace(model, data()[0][:32], CONFIG)
    assert set(seen) == {("highest", False)}
    seen.clear()
    model.net[0].weight.register_hook(lambda gradient: seen.append(torch.get_float32_matmul_precision()))
    model.loss(data()).backward()
    assert seen == [(level, tf32), level]
    for target in space.targets.values():
        target.register_hook(lambda gradient: seen.append(torch.get_float32_matmul_precision()))
    seen.clear()
    space.pullback()
    assert seen == ["highest"] * 3
    assert torch.get_float32_matmul_precision() == level
    assert torch.backends.cudnn.allow_tf32 == tf32


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="settings by library came with torch 2.9")
@pytest.mark.parametrize("library", ["cuda.matmul", "cudnn.conv", "mkldnn.conv", "mkldnn.matmul"])
def test_settings_by_library_are_kept(library):
    owner = torch.backends
    for name in library.split("."):
        owner = getattr(owner, name)
    before, value = owner.fp32_precision, "tf32" if library.startswith("cu") else "bf16"
    owner.fp32_precision = value
    try:
        with full_precision(torch.device("cpu")):
            assert owner.fp32_precision in ("ieee", "none")
        assert owner.fp32_precision == value
    finally:
        owner.fp32_precision = before
