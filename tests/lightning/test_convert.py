"""A LightningModule without the mixin, converted in place: its class changes, and nothing else of it."""

import copy
import pickle

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

from tests.cli.plain import Net, Points
from tests.cli.solved import OWN, Solved
from tests.support import processes
from tests.support.fits import assert_equal, trainer
from ts_lightning import TargetSpaceConfig, TargetSpaceError, TargetSpaceMixin, convert


def converted():
    torch.manual_seed(0)
    model = Net(width=6)
    return convert(model, OWN)


def fitted(model):
    """The weights after a fit; runs in processes of its own, too."""
    torch.manual_seed(1)  # of the first targets
    run = trainer(max_epochs=1)
    run.fit(model, Points())
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_it_is_the_same_object_with_the_same_parameters():
    torch.manual_seed(0)
    model = Net(width=6)
    before, parameters = copy.deepcopy(model.state_dict()), list(model.parameters())
    convert(model, OWN)
    assert isinstance(model, Net)
    assert isinstance(model, TargetSpaceMixin)
    assert (type(model).__name__, type(model).__module__) == ("Net", "tests.cli.plain")
    assert_equal(model.state_dict(), before)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert not issubclass(Net, TargetSpaceMixin)
    assert type(converted()) is type(model)


def test_none_converts_nothing_and_a_module_with_the_mixin_keeps_its_class():
    model, solved = Net(), Solved()
    convert(model, None)
    assert type(model) is Net
    convert(solved, None)
    assert type(solved) is Solved
    assert solved.target_space is None
    assert Solved.target_space == OWN


def test_it_trains_as_a_class_with_the_mixin_does():
    torch.manual_seed(0)
    written = Solved(width=6)
    model = converted()
    assert_equal(fitted(model), fitted(written))
    assert set(model.target_space_engine.targets) == {"net.0", "net.2"}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_and_pickles_go_on_in_target_space(copied):
    model = converted()
    fitted(model)
    found = copied(model)
    assert type(found) is type(model)
    assert (found.target_space, found.target_space_engine) == (OWN, None)
    assert_equal(found, model)
    fitted(found)
    assert found.target_space_engine is not None


def test_another_process_takes_it_as_it_is():
    model = converted()
    (found,) = processes.run(fitted, copy.deepcopy(model))  # processes share the memory of tensors
    assert_equal(found, fitted(model))


def test_its_checkpoint_is_the_plain_modules(tmp_path):
    model = converted()
    run = trainer(max_epochs=1)
    run.fit(model, Points())
    run.save_checkpoint(tmp_path / "last.ckpt")
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert set(checkpoint["target_space"]["targets"]) == {"net.0", "net.2"}
    plain = Net.load_from_checkpoint(tmp_path / "last.ckpt", strict=True)
    assert type(plain) is Net
    assert plain.hparams.width == 6
    assert_equal(plain, model)


def test_what_it_loads_from_a_checkpoint_goes_on_in_target_space(tmp_path):
    run = trainer(max_epochs=1)
    run.fit(converted(), Points())
    run.save_checkpoint(tmp_path / "last.ckpt")
    again = convert(Net.load_from_checkpoint(tmp_path / "last.ckpt"), OWN)
    further = trainer(max_epochs=2)
    further.fit(again, Points(), ckpt_path=tmp_path / "last.ckpt")
    whole = converted()
    trainer(max_epochs=2).fit(whole, Points())
    assert_equal(again, whole)


def test_settings_that_a_module_has_are_kept_unless_others_are_given():
    assert convert(Solved()).target_space == OWN
    plain = Net()
    plain.target_space = OWN
    assert convert(plain).target_space == OWN
    assert convert(converted()).target_space == OWN
    assert convert(Solved(), TargetSpaceConfig()).target_space == TargetSpaceConfig()
    assert convert(convert(Net(), None)).target_space == TargetSpaceConfig()


@pytest.mark.parametrize("given", [{"ridge": 2}, True])
def test_settings_of_another_type_are_refused_by_name(given):
    with pytest.raises(TypeError, match="convert: expected a TargetSpaceConfig"):
        convert(Net(), given)
    model = converted()
    model.target_space = given
    with pytest.raises(TypeError, match=r"Net\.target_space: expected a TargetSpaceConfig"):
        fitted(model)


def test_defaults_and_weight_space():
    assert convert(Net()).target_space == TargetSpaceConfig()
    model = convert(convert(Net(), OWN), None)
    assert model.target_space is None
    fitted(model)
    assert model.target_space_engine is None


class Own(Net):
    """A class that says how its reference batch is made and used, and does not have the mixin."""

    def reference_batch(self):
        return torch.ones(30, 3)

    def reference_forward(self, batch):
        return self.net(2 * batch)


def test_a_class_says_what_its_reference_batch_is_without_the_mixin():
    model = convert(Own(), OWN)
    fitted(model)
    assert torch.equal(model.target_space_engine.state_dict()["reference"], torch.ones(30, 3))
    seen = []
    model.net[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.target_space_engine.solve()
    assert torch.equal(seen[0], 2 * torch.ones(30, 3))


@pytest.mark.parametrize(
    ("module", "hint"),
    [
        (torch.nn.Linear(2, 2), "there is ts_lightning.TargetSpace"),
        (torch.compile(Net()), "before torch.compile"),
        (Net, "as in convert\\(Net"),
    ],
    ids=["a plain module", "a compiled one", "a class"],
)
def test_another_kind_of_module_is_refused_with_what_to_do(module, hint):
    with pytest.raises(TargetSpaceError, match=f"expected a LightningModule: .*{hint}"):
        convert(module)


def test_the_mixin_on_a_plain_module_is_refused_where_the_class_is_written():
    """In a loop of one's own it trained in weight space without a word."""
    with pytest.raises(TargetSpaceError, match=r"class Body: .* with Module, .*make TargetSpace\("):

        class Body(TargetSpaceMixin, nn.Module):
            pass

    with pytest.raises(TargetSpaceError, match=r"class Solved: .* with Sequential, .*\(TargetSpaceMixin, Lightning"):
        type("Solved", (TargetSpaceMixin, nn.Sequential), {})


def test_the_mixin_may_make_a_lightning_module_of_a_plain_one():
    def step(self, batch, batch_idx):
        return self(batch[0]).square().mean()

    made = type("Lit", (TargetSpaceMixin, nn.Sequential), {"training_step": step})
    assert issubclass(type("Sub", (made,), {}), TargetSpaceMixin)
    assert issubclass(type("Both", (TargetSpaceMixin, nn.Sequential, LightningModule), {}), TargetSpaceMixin)
