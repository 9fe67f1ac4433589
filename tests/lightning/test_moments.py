"""Moments where targets take the place of weights or give it back, and where an optimizer loads its own state."""

import copy

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.lightning.test_optimizers import Lookahead
from tests.support.fits import assert_equal, trainer
from tests.support.resuming import Text, build, everything, fit
from ts_lightning import TargetSpace, TargetSpaceConfig, convert
from ts_lightning.errors import TargetSpaceError


class Scaled(LightningModule):
    """A regression: its first parameter is not solved, and a single number comes out."""

    def __init__(self, optimizer):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        self.optimizer = optimizer

    def forward(self, x):
        return self.net(x * self.scale)

    def training_step(self, batch, batch_idx):
        return (self(batch[0]) - batch[1]).square().mean()

    def configure_optimizers(self):
        return self.optimizer(self.parameters())


def run(optimizer, settings, kind=Scaled, **options):
    x = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    module = kind(optimizer)
    if settings is not None:
        module = convert(module, settings)
    path = options.pop("ckpt_path", None)
    fitting = trainer(**options)
    fitting.fit(module, DataLoader(TensorDataset(x, x[:, :1]), 8), ckpt_path=path)
    return fitting


def lbfgs(parameters):
    return torch.optim.LBFGS(parameters, max_iter=3)


KINDS = {
    "Adam": torch.optim.Adam,
    "RMSprop": torch.optim.RMSprop,
    "Adafactor": torch.optim.Adafactor,
    "momentum": lambda parameters: torch.optim.SGD(parameters, 0.01, momentum=0.9),
    "LBFGS": lbfgs,
    "Lookahead": lambda parameters: Lookahead(torch.optim.Adam(parameters)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_moments_of_weights_are_none_of_targets(kind, tmp_path):
    """Those of a bias with one number were taken for what a constructor makes, and LBFGS's own for all targets."""
    file = tmp_path / "weights.ckpt"
    run(KINDS[kind], None, max_epochs=1).save_checkpoint(file)
    seen = []

    def looking(parameters):
        optimizer = KINDS[kind](parameters)
        stepping = getattr(optimizer, "base", optimizer)
        stepping.register_step_pre_hook(lambda one, *rest: seen.append({p: dict(s) for p, s in one.state.items()}))
        return optimizer

    resumed = run(looking, TargetSpaceConfig(), max_epochs=2, ckpt_path=file)
    assert resumed.global_step == 6
    targets = resumed.lightning_module.target_space_engine.targets.values()
    assert not any(seen[0].get(target) for target in targets)
    assert any(seen[0].get(p) for p in resumed.lightning_module.parameters()) == (kind != "LBFGS")


def test_what_the_constructor_of_an_inner_optimizer_makes_is_made_for_targets():
    def make(parameters):
        return Lookahead(torch.optim.Adagrad(parameters, lr=0.1, initial_accumulator_value=0.5))

    fitted = run(make, TargetSpaceConfig(), max_epochs=1)
    (optimizer,) = fitted.optimizers
    for target in fitted.lightning_module.target_space_engine.targets.values():
        state = optimizer.base.state[target]
        assert int(state["step"]) == 3
        assert state["sum"].shape == target.shape
        assert bool((state["sum"] >= 0.5).all())


def test_an_inner_optimizer_takes_its_own_state():
    def trained(back):
        class Going(Scaled):
            def on_train_batch_start(self, batch, batch_idx):
                inner = self.optimizers(use_pl_optimizer=False).base
                if back and self.global_step == 3:
                    inner.load_state_dict(copy.deepcopy(inner.state_dict()))

        fitted = run(lambda p: Lookahead(torch.optim.Adafactor(p)), TargetSpaceConfig(), kind=Going, max_epochs=2)
        return dict(fitted.lightning_module.state_dict())

    assert_equal(trained(True), trained(False))


def test_lbfgs_goes_on_in_weight_space():
    assert run(lbfgs, TargetSpaceConfig(until=2), max_epochs=2).global_step == 6


@pytest.mark.parametrize("optimizer", ["adam", "adafactor", "preconditioned", "lbfgs"])
def test_an_optimizer_takes_its_own_state(optimizer):
    """As behind a step that a callback undoes: moments of other shapes than the targets' are no less theirs."""

    class Going(Text):
        back = False

        def on_train_batch_start(self, batch, batch_idx):
            one = self.optimizers(use_pl_optimizer=False)
            if self.back and self.global_step == 3:
                one.load_state_dict(copy.deepcopy(one.state_dict()))

    whole = everything(fit(build(Going, optimizer=optimizer), max_epochs=2))
    Going.back = True
    assert_equal(everything(fit(build(Going, optimizer=optimizer), max_epochs=2)), whole)


def test_lbfgs_behind_a_step_is_refused_in_a_loop_of_ones_own():
    module = Scaled(lbfgs)
    x = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
    optimizer = module.configure_optimizers()

    def closure():
        optimizer.zero_grad()
        loss = module(x).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    space = TargetSpace(module, x)
    with pytest.raises(TargetSpaceError, match="LBFGS already holds state for weights"):
        space.substitute(optimizer)
