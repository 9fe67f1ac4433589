"""Every way to step trains alike: by Lightning, by hand, past its wrapper, twice in a step."""

import pytest
import torch
from torch import nn

from tests.support.fits import CONFIG, Lit, Plain, assert_equal, build, data, fit, loader
from tests.support.sam import SAM
from ts_lightning import TargetSpace, TargetSpaceError

SGD = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.1)}


class Manual(Lit):
    """``way`` says how a step is made."""

    way = "lightning"

    def __init__(self, **options):
        super().__init__(**options)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        if self.way == "raw":
            optimizer = self.optimizers(use_pl_optimizer=False)
        loss = self.loss(batch)
        optimizer.zero_grad()
        self.manual_backward(loss)
        if self.way == "clipped":
            self.clip_gradients(optimizer, 1e-3, "norm")
        if self.way == "read":
            trained = [p for group in optimizer.param_groups for p in group["params"]]
            assert all(p.grad is not None for p in trained)
        (optimizer.optimizer if self.way == "inner" else optimizer).step()
        self.losses.append(float(loss.detach()))


@pytest.mark.parametrize("way", ["raw", "inner", "read"])
def test_every_way_to_step_trains_alike(way):
    models = []
    for kind in ("lightning", way):
        model = build(Manual, **SGD)
        model.way = kind
        fit(model, max_epochs=2)
        models.append(model)
    assert_equal(models[1], models[0])
    assert models[0].losses[-1] < models[0].losses[0]


def test_clip_gradients_by_hand_clips():
    model = build(Manual, **SGD)
    model.way = "clipped"
    seen = []
    model.on_before_optimizer_step = lambda optimizer: seen.append(
        float(nn.utils.get_total_norm([p.grad for g in optimizer.param_groups for p in g["params"]]))
    )
    fit(model, max_epochs=1)
    assert seen == pytest.approx([1e-3] * 4, rel=1e-3)


@pytest.mark.parametrize("way", ["wrapper", "closure"])
def test_automatic_optimisation_stepped_past_the_wrapper(way):
    class Past(Lit):
        def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
            if way == "closure":
                optimizer.optimizer.step(optimizer_closure)
            else:
                optimizer_closure()
                optimizer.optimizer.step()

    models = [build(kind, **SGD) for kind in (Lit, Past)]
    for model in models:
        fit(model, max_epochs=2)
    assert_equal(models[1], models[0])


def test_sharpness_aware_minimisation_equals_a_loop():
    model = build(optimizer=lambda p: SAM(p, lr=0.1))
    fit(model, max_epochs=1)
    plain = build(Plain)
    space = TargetSpace(plain, data()[0][:32], CONFIG)
    optimizer = torch.optim.SGD(space.parameters(), lr=0.1)
    for batch in loader():
        optimizer.zero_grad()
        plain.loss(batch).backward()
        space.pullback()
        targets = list(space.targets.values())
        norm = torch.stack([t.grad.norm() for t in targets]).norm()
        old = [t.detach().clone() for t in targets]
        with torch.no_grad():
            for target in targets:
                target.add_(target.grad * 0.05 / norm)
        optimizer.zero_grad()
        space.solve()
        plain.loss(batch).backward()
        space.pullback()
        with torch.no_grad():
            for target, value in zip(targets, old, strict=True):
                target.copy_(value)
        optimizer.step()
        space.solve()
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("goes_on", [False, True])
def test_the_optimizer_of_a_fit_that_has_ended_is_refused_in_a_loop_until_weights_are_solved(goes_on):
    """Its steps moved targets, and no weight, without a word."""
    model = build(**SGD)
    fit(model, max_epochs=1)
    optimizer, space, batch = model.trainer.optimizers[0], model.target_space_engine, next(iter(loader()))
    start = model.net[0].weight.detach().clone()
    if goes_on:
        space.solve()
    optimizer.zero_grad()
    model.loss(batch).backward()
    if goes_on:
        space.pullback()
        optimizer.step()
        space.solve()
        assert not torch.equal(model.net[0].weight, start)
    else:
        with pytest.raises(TargetSpaceError, match=r"trains targets of a target space that was released"):
            optimizer.step()
