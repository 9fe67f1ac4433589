"""States in the forms of libraries' optimizers: a fit with them writes checkpoints, and goes on from these."""

import copy

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.support.fits import SavedAt, assert_equal, trainer
from tests.support.optimizer_states import KINDS, Anchored, Masked, Wrapper, network
from ts_lightning import TargetSpace, TargetSpaceConfig, convert
from ts_lightning.engine.targets.partition import Partition
from ts_lightning.errors import TargetSpaceError
from ts_lightning.lightning.substitution import Substitution


class Lit(LightningModule):
    def __init__(self, kind):
        super().__init__()
        self.net, self.kind = network(), kind

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return self.kind(self.parameters())


def fit(kind, settings, path=None, saves=None):
    x = torch.randn(32, 3, generator=torch.Generator().manual_seed(0))
    module = Lit(kind)
    if settings is not None:
        module = convert(module, settings)
    fitting = trainer(max_epochs=2, callbacks=[SavedAt(saves, epoch=0)] if saves else [])
    fitting.fit(module, DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), 8), ckpt_path=path)
    return module


@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_goes_on_to_the_same_bits(kind, tmp_path):
    path = tmp_path / "half.ckpt"
    whole = fit(kind, TargetSpaceConfig(), saves=path)
    torch.load(path, weights_only=True)
    assert_equal(fit(kind, TargetSpaceConfig(), path), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_go_on_in_the_other_space(kind, tmp_path):
    for settings, other in ((TargetSpaceConfig(), None), (None, TargetSpaceConfig())):
        path = tmp_path / "half.ckpt"
        fit(kind, settings, saves=path)
        begun = torch.load(path, weights_only=True)["state_dict"]
        module = fit(kind, other, path)
        assert all(value.isfinite().all() for value in module.parameters())
        assert not torch.equal(module.net[0].weight, begun["net.0.weight"])


@pytest.mark.parametrize("kind", KINDS)
def test_weight_space_goes_on_within_a_fit(kind):
    module = fit(kind, TargetSpaceConfig(until=3))
    assert all(value.isfinite().all() for value in module.parameters())


def test_copies_of_weights_are_made_anew_of_targets():
    """The start in target space moves weights ahead of the optimizer's first step."""
    module = convert(Lit(Anchored), TargetSpaceConfig())
    found = []

    class Look(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 0:
                optimizer = trainer.optimizers[0]
                found.extend(
                    (p.detach().clone(), optimizer.state[p]["slow"].clone())
                    for p in optimizer.param_groups[0]["params"]
                )

    x = torch.randn(8, 3)
    trainer(max_epochs=1, callbacks=[Look()]).fit(module, DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), 8))
    assert len(found) == 2
    assert all(torch.equal(target, slow) for target, slow in found)


def test_a_mask_of_weights_is_refused():
    with pytest.raises(TargetSpaceError, match="Masked chooses among the numbers of each weight, by a mask 'chosen'"):
        fit(Masked, TargetSpaceConfig())


def test_a_form_of_its_own_cannot_be_joined_from_several_processes(monkeypatch):
    model = network()
    space = TargetSpace(model, torch.randn(20, 3))
    monkeypatch.setattr(Partition, "ranks", property(lambda self: 2))
    with pytest.raises(
        TargetSpaceError, match="Wrapper writes its state in a form of its own, in which what each of 2"
    ):
        Substitution(space, Wrapper(model.parameters()))


def test_a_callback_loads_a_state_of_its_own_form():
    """As one that goes back to the best epoch within the fit."""
    seen = []

    class Back(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            optimizer = trainer.optimizers[0]
            states = [state["exp_avg"].clone() for state in optimizer.state.values()]
            if trainer.global_step == 2:
                self.kept = copy.deepcopy(optimizer.state_dict())
                seen.append(states)
            if trainer.global_step == 4:
                optimizer.load_state_dict(self.kept)
                seen.append([state["exp_avg"].clone() for state in optimizer.state.values()])

    x = torch.randn(32, 3)
    module = convert(Lit(Wrapper), TargetSpaceConfig())
    trainer(max_epochs=1, callbacks=[Back()]).fit(module, DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), 8))
    assert len(seen) == 2
    assert all(map(torch.equal, *seen))


def test_settings_of_an_optimizer_under_names_of_methods_stay():
    """The methods train() and eval() of schedule-free ones are taken back behind the fit."""
    model = network()
    space = TargetSpace(model, torch.randn(20, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.train = True
    substitution = Substitution(space, optimizer)
    substitution.undo()
    assert optimizer.train is True
