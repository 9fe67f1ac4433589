"""A LightningModule without the mixin, converted in place: its class changes, and nothing else of it."""

import copy
import pickle

import pytest
import torch

from tests.cli.plain import Net, Points
from tests.cli.solved import OWN, Solved
from tests.support import processes
from tests.support.fits import assert_equal, trainer
from ts_lightning import TargetSpaceMixin
from ts_lightning.cli.convert import set_target_space


def converted():
    torch.manual_seed(0)
    model = Net(width=6)
    set_target_space(model, OWN)
    return model


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
    set_target_space(model, OWN)
    assert isinstance(model, Net)
    assert isinstance(model, TargetSpaceMixin)
    assert (type(model).__name__, type(model).__module__) == ("Net", "tests.cli.plain")
    assert_equal(model.state_dict(), before)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert not issubclass(Net, TargetSpaceMixin)
    assert type(converted()) is type(model)


def test_none_converts_nothing_and_a_module_with_the_mixin_keeps_its_class():
    model, solved = Net(), Solved()
    set_target_space(model, None)
    assert type(model) is Net
    set_target_space(solved, None)
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
    (found,) = processes.run(fitted, model)
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
