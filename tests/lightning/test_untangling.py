"""Fits that untangle at a period: resumed at any phase, accumulated, in half precision, by hand, by LBFGS."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from tests.support.fits import Lit, assert_equal, loader
from tests.support.fits import fit as fit_small
from tests.support.resuming import build, every_step, everything, fit, with_reference

RUNS = {
    "adam": {},
    "half": {"precision": "bf16-mixed", "max_epochs": 2},
    "accumulated": {"accumulate_grad_batches": 2},
    "clipped": {"gradient_clip_val": 0.05, "max_epochs": 2},
    "lbfgs": {"optimizer": "lbfgs", "max_epochs": 2},
    "refreshed": {"selection": "random", "refresh": 1},
    "own gradients": {"cascade_gradient": False},
}


def untangling(model, untangle, **changes):
    model.target_space = replace(model.target_space, untangle=untangle, **changes)
    return model


@pytest.mark.parametrize("untangle", [3, "auto"])
@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS)
def test_resuming_at_any_phase_gives_the_same_bits(options, untangle, tmp_path):
    if untangle == "auto" and options and "cascade_gradient" not in options:
        pytest.skip("one controller for all")
    options = dict(options)
    changes = {name: options.pop(name) for name in ("cascade_gradient",) if name in options}
    module = {name: options.pop(name) for name in ("optimizer",) if name in options}
    reference = {name: options.pop(name) for name in ("selection", "refresh") if name in options}
    seed = 0 if "refresh" in reference else 7

    def made(seed):
        return untangling(with_reference(build(seed=seed, **module), **reference), untangle, **changes)

    whole = fit(made(0), callbacks=[every_step(tmp_path)], **options)
    losses = whole.lightning_module.losses
    files = sorted(tmp_path.iterdir())
    assert len(files) == whole.global_step > 5
    for file in files[:5]:
        torch.manual_seed(seed)
        run = fit(made(seed), ckpt_path=file, **options)
        assert run.lightning_module.losses == losses[len(losses) - len(run.lightning_module.losses) :]
        assert_equal(everything(run), everything(whole))


class Counted(Lit):
    """``kept`` says of each optimizer step whether the solve behind it was kept."""

    def __init__(self, **options):
        super().__init__(**options)
        self.kept = []

    def on_train_batch_end(self, *args):
        self.kept.append(self.target_space_engine.cascade.solution.kept)


def counted(untangle, **options):
    torch.manual_seed(0)
    return untangling(Counted(**options), untangle)


@pytest.mark.parametrize("options", [{}, {"precision": "bf16-mixed"}, {"gradient_clip_val": 0.1}], ids=str)
@pytest.mark.parametrize("through", [True, False])
def test_every_third_step_untangles(options, through):
    model = untangling(counted(3), 3, cascade_gradient=through)
    fit_small(model, **options)
    assert model.kept == [True, True, False, True, True, False, True, True]


def test_accumulated_gradients_are_of_one_map():
    whole, parts = counted(3, dtype=torch.float64), counted(3, dtype=torch.float64)
    fit_small(whole, loader(16, dtype=torch.float64))
    fit_small(parts, loader(8, dtype=torch.float64), accumulate_grad_batches=2)
    for found, expected in zip(parts.parameters(), whole.parameters(), strict=True):
        assert torch.allclose(found, expected, rtol=1e-8, atol=1e-10)


def test_an_optimizer_that_asks_for_the_loss_again_untangles_each_time():
    found = []
    for untangle in (1, 3):
        model = counted(untangle, optimizer=lambda parameters: torch.optim.LBFGS(parameters, lr=0.5, max_iter=3))
        fit_small(model)
        found.append(model)
    assert found[1].kept == [False] * 8
    assert_equal(*found)


def test_manual_optimisation_is_the_automatic_one():
    class Manual(Counted):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(functional.cross_entropy(self(batch[0]), batch[1]))
            optimizer.step()

    torch.manual_seed(0)
    manual, automatic = untangling(Manual(), 3), counted(3)
    for model in (manual, automatic):
        fit_small(model)
    assert manual.kept == automatic.kept == [True, True, False, True, True, False, True, True]
    assert_equal(manual, automatic)
