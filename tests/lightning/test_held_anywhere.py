"""Optimizers, schedules and scalers that nobody finds: training_step steps them, and the reference pass does not."""

import importlib
import sys
import threading
import types
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.lightning.test_held_steps import SETTINGS, Automatic
from tests.support.fits import build, fit, loader
from tests.support.sam import SAM
from ts_lightning import TargetSpaceMixin
from ts_lightning.engine.steps.held import all_still

STEPS = 8  # of the training


class Kept:
    """A weight with what moves it."""

    def __init__(self, make=lambda p: torch.optim.Adam([p], lr=0.1, weight_decay=0.1)):
        self.weight = nn.Parameter(torch.ones(()))
        self.optimizer = make(self.weight)
        self.schedule = torch.optim.lr_scheduler.StepLR(self.optimizer, 1, 0.9)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=2)

    def loss(self, value):
        return (self.weight * (1 + 0 * value.detach()) - 3).square()

    def plain(self, value):
        self.optimizer.zero_grad()
        self.loss(value).backward()
        self.optimizer.step()
        self.schedule.step()

    def scaled(self, value):
        self.optimizer.zero_grad()
        self.scaler.scale(self.loss(value)).backward()
        self.scaler.unscale_(self.optimizer)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def closed(self, value):
        def closure():
            self.optimizer.zero_grad()
            loss = self.loss(value)
            loss.backward()
            return loss

        self.optimizer.step(closure)

    def aware(self, value):
        for step in (self.optimizer.first_step, self.optimizer.second_step):
            self.optimizer.zero_grad()
            self.loss(value).backward()
            step()

    def state(self):
        state = [v for entries in self.optimizer.state_dict()["state"].values() for v in entries.values()]
        numbers = [float(v) for v in state if isinstance(v, int | float) or (torch.is_tensor(v) and v.numel() == 1)]
        rate = self.optimizer.param_groups[0]["lr"]
        return [float(self.weight), rate, self.schedule.last_epoch, self.scaler.get_scale(), *numbers]


WAYS = {
    "plain": (Kept, "plain"),
    "scaled": (Kept, "scaled"),
    "closed": (lambda: Kept(lambda p: torch.optim.LBFGS([p], lr=0.1)), "closed"),
    "momentum": (lambda: Kept(lambda p: torch.optim.SGD([p], lr=0.1, momentum=0.9)), "plain"),
    "aware": (lambda: Kept(lambda p: SAM([p], lr=0.1)), "aware"),
}
HELD = {}
helpers = types.ModuleType("helpers")  # of a library, into which nobody looks
helpers.step = None


class ByGlobal(Automatic):
    def training_step(self, batch, batch_idx):
        super().training_step(batch, batch_idx)
        HELD["step"](self.critic(batch[0]).mean())


class ByLibrary(Automatic):
    def training_step(self, batch, batch_idx):
        super().training_step(batch, batch_idx)
        helpers.step(self.critic(batch[0]).mean())


def closing(step):
    class ByClosure(Automatic):
        def training_step(self, batch, batch_idx):
            super().training_step(batch, batch_idx)
            step(self.critic(batch[0]).mean())

    return ByClosure


def trained(place, way, **attributes):
    make, name = WAYS[way]
    kept = make()
    step = SimpleNamespace(step=getattr(kept, name)).step  # of a library
    HELD["step"] = helpers.step = step
    kind = {"global": ByGlobal, "library": ByLibrary, "closure": closing(step)}[place]
    model = build(type("Lit", (TargetSpaceMixin, kind), {"target_space": SETTINGS, **attributes}))
    fit(model, loader())
    return model, kept.state()


@pytest.mark.parametrize("place", ["global", "closure", "library"])
@pytest.mark.parametrize("way", WAYS)
def test_what_is_held_elsewhere_moves_in_training_steps_alone(place, way):
    """It moved in every reference pass, by the NaNs that stand for gradients there."""
    model, found = trained(place, way)
    assert len(model.target_space_engine.targets) == 4
    assert found == trained(place, way, target_space=None)[1]
    assert all(map(torch.isfinite, map(torch.tensor, found)))


def test_what_the_block_makes_moves_and_classes_are_as_before():
    before = {kind: dict(vars(kind)) for kind in (torch.optim.Optimizer, torch.amp.GradScaler)}
    outside, inside = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))
    other = torch.optim.SGD([outside], lr=0.5)
    with all_still():
        own = torch.optim.SGD([inside], lr=0.5)
        schedule = torch.optim.lr_scheduler.StepLR(own, 1)
        (outside + inside).backward()
        other.step()
        own.step()
        schedule.step()
        assert float(outside.grad) == 1.0
    assert (float(outside), float(inside)) == (1.0, 0.5)
    assert own.param_groups[0]["lr"] == pytest.approx(0.05)
    other.step()
    assert float(outside) == 0.5
    assert {kind: dict(vars(kind)) for kind in before} == before


def test_what_another_thread_holds_moves():
    parameter = nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)

    def train():
        parameter.sum().backward()
        optimizer.step()
        schedule.step()

    with all_still():
        thread = threading.Thread(target=train)
        thread.start()
        thread.join()
    assert float(parameter) == 0.5
    assert schedule.last_epoch == 1


def test_what_a_step_writes_without_gradients_is_put_back():
    class Decaying(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            with torch.no_grad():
                for p in self.param_groups[0]["params"]:
                    p.mul_(0.9)
            self.count = getattr(self, "count", 0) + 1

    parameter = nn.Parameter(torch.ones(()))
    optimizer = Decaying([parameter], lr=0.5)
    parameter.sum().backward()
    with all_still():
        optimizer.step()
    assert float(parameter) == 1.0
    assert not hasattr(optimizer, "count")
    assert float(parameter.grad) == 1.0


def test_a_step_that_fails_leaves_gradients():
    class Failing(torch.optim.SGD):
        def step(self, closure=None):
            raise ZeroDivisionError

    parameter = nn.Parameter(torch.ones(()))
    optimizer = Failing([parameter], lr=0.5)
    parameter.sum().backward()
    with pytest.raises(ZeroDivisionError), all_still():
        optimizer.step()
    assert float(parameter.grad) == 1.0


def test_counts_in_a_file_of_helpers_are_put_back(tmp_path, monkeypatch):
    """What training_step reaches by ``helpers.count()`` counted every reference pass."""
    (tmp_path / "own_helpers.py").write_text("n = 0\ndef count():\n    global n\n    n += 1\n    return n\n")
    monkeypatch.syspath_prepend(tmp_path)
    own_helpers = importlib.import_module("own_helpers")

    class Closed(Automatic):
        def training_step(self, batch, batch_idx):
            super().training_step(batch, batch_idx)
            self.seen.append(own_helpers.count())

    class Within(Automatic):
        def training_step(self, batch, batch_idx):
            super().training_step(batch, batch_idx)
            import own_helpers

            self.seen.append(own_helpers.count())

    for kind in (Closed, Within):
        own_helpers.n = 0
        model = build(type("Lit", (TargetSpaceMixin, kind), {"target_space": SETTINGS}))
        fit(model, loader())
        assert model.seen == list(range(1, STEPS + 1))
    del sys.modules["own_helpers"]
