"""Given weights stay where inputs change and nothing is trained: norms that hooks freeze, buffers that they write."""

import pytest
import torch
from torch import nn

from tests.support.fits import Plain, assert_equal, data, fit, loader
from ts_lightning import TargetSpace, TargetSpaceConfig, TargetSpaceMixin


class Freezing(TargetSpaceMixin, Plain):
    def __init__(self, hook, config, rate):
        super().__init__(lambda parameters: torch.optim.Adam(parameters, lr=rate), norm=True)
        self.hook, self.target_space = hook, config
        self.norm = next(module for module in self.modules() if isinstance(module, nn.BatchNorm1d))
        self.norm.running_mean += 0.3

    def on_train_start(self):
        if self.hook == "start":
            self.norm.eval()
        if self.hook == "thaw":
            self.norm.train()

    def on_train_epoch_start(self):
        if self.hook == "epoch" and self.current_epoch == 1:
            self.norm.eval()


def made(hook, config, rate):
    torch.manual_seed(0)
    model = Freezing(hook, config, rate)
    if hook == "thaw":
        model.norm.eval()
    return model


HOOKS = ["start", "epoch", "thaw"]


@pytest.mark.parametrize("hook", HOOKS)
def test_given_weights_stay(hook):
    found = []
    for config in (None, TargetSpaceConfig(init="weights")):
        model = made(hook, config, 0.0)
        fit(model, loader(shuffle=True))
        found.append(model)
    assert found[0].losses == found[1].losses
    assert_equal(*found)


@pytest.mark.parametrize("init", ["weights", "auto"])
@pytest.mark.parametrize("hook", HOOKS)
def test_a_fit_resumes_to_the_last_bit(tmp_path, hook, init):
    config = TargetSpaceConfig(init=init)
    whole, first, second = (made(hook, config, 0.01) for _ in range(3))
    fit(whole, max_epochs=4)
    fit(first, max_epochs=3).save_checkpoint(tmp_path / "last.ckpt")
    if hook == "epoch":  # as a hook of the user's would do it
        second.hook = "start"
    fit(second, max_epochs=4, ckpt_path=tmp_path / "last.ckpt")
    assert_equal(second, whole)


class Scaled(Freezing):
    """Its forward reads a buffer and an attribute, which a hook or the training step writes."""

    def __init__(self, hook, config, rate):
        super().__init__(hook, config, rate)
        self.register_buffer("scale", torch.ones(()))
        self.factor = 1.0

    def forward(self, x):
        return super().forward(x * self.scale * self.factor)

    def on_train_start(self):
        self.say("start")

    def on_train_batch_start(self, batch, batch_idx):
        if batch_idx == 0:
            self.say("first batch")

    def training_step(self, batch, batch_idx):
        self.say("step")
        return super().training_step(batch, batch_idx)

    def say(self, place):
        what, _, where = self.hook.partition(" in ")
        if where != place:
            return
        if what == "buffer":
            self.scale.fill_(3.0)
        elif what == "attribute":
            self.factor = 0.5
        else:
            self.norm.eval()


@pytest.mark.parametrize("where", ["start", "first batch", "step"])
@pytest.mark.parametrize("what", ["buffer", "attribute", "norm"])
def test_they_stay_whatever_forward_reads(what, where):
    found = []
    for config in (None, TargetSpaceConfig(init="weights")):
        torch.manual_seed(0)
        model = Scaled(f"{what} in {where}", config, 0.0)
        fit(model, loader(shuffle=True))
        found.append(model)
    assert found[0].losses == found[1].losses
    assert_equal(*found)


def test_gradients_are_those_of_what_forward_reads_now():
    torch.manual_seed(0)
    model = Scaled("none", None, 0.0).double()
    x, y = data(dtype=torch.float64)
    space = TargetSpace(model, x, TargetSpaceConfig(init="weights"))
    model.factor = 0.5
    nn.functional.cross_entropy(model(x), y).backward()
    space.pullback()
    found = [target.grad for target in space.targets.values()]
    space.release()
    other = TargetSpace(model, x, TargetSpaceConfig(init="weights"))
    nn.functional.cross_entropy(model(x), y).backward()
    other.pullback()
    torch.testing.assert_close(found, [target.grad for target in other.targets.values()])


def test_in_a_loop_of_ones_own_given_weights_stay():
    torch.manual_seed(0)
    model = Plain(norm=True).net
    x, y = data()
    given = {name: value.clone() for name, value in model.state_dict().items()}
    space = TargetSpace(model, x, TargetSpaceConfig(init="weights"))
    model[1].eval()
    optimizer = torch.optim.SGD(space.parameters(), lr=0.0)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        space.pullback()
        optimizer.step()
        space.solve()
    assert_equal(model.state_dict(), given)


def test_gradients_are_those_of_the_norms_mode():
    torch.manual_seed(0)
    model = Plain(norm=True, dtype=torch.float64).net
    x, y = data(dtype=torch.float64)
    space = TargetSpace(model, x, TargetSpaceConfig(init="weights"))
    model[1].eval()

    def loss():
        return nn.functional.cross_entropy(model(x), y)

    loss().backward()
    space.pullback()
    targets = list(space.targets.values())
    directions = [torch.randn_like(target) for target in targets]
    expected = sum(float((target.grad * d).sum()) for target, d in zip(targets, directions, strict=True))
    values = []
    for step in (1e-5, -2e-5):
        with torch.no_grad():
            for target, direction in zip(targets, directions, strict=True):
                target += step * direction
        space.solve()
        values.append(float(loss()))
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(expected, rel=1e-5)
