"""``until`` beside what tries something out and goes back: searches for a rate or a batch size, earlier checkpoints."""

from __future__ import annotations

import copy

import pytest
import torch
from lightning.pytorch.callbacks import BatchSizeFinder, Callback, LearningRateFinder
from lightning.pytorch.tuner import Tuner

from tests.lightning.test_until import UNTIL, Handed, HandedSmall, Seen, ending
from tests.support.fits import Lit, Plain, assert_equal, loader, trainer
from tests.support.fits import build as build_small
from tests.support.fits import fit as fit_small
from tests.support.resuming import Text, build, every_step, fit


def searched(find, cls, **options):
    """A fit whose search makes more steps than there are in target space, and the weights of one without it."""
    found = []
    for callbacks in ([find], []):
        model = ending(build_small(cls), until=3)
        model.lr = 0.01
        model.make = lambda parameters, model=model: torch.optim.Adam(parameters, lr=model.lr)
        seen = Seen()
        run = trainer(max_epochs=2, callbacks=[*callbacks, seen], **options)
        torch.manual_seed(0)
        run.fit(model, loader())
        found.append((model, seen.spaces))
    return found


def finder_goes_back(folder):
    """Whether a fit in weight space has all its steps behind a search."""
    model = build_small(Plain)
    model.lr = 0.01
    finder = LearningRateFinder(num_training_steps=8, update_attr=False, early_stop_threshold=None)
    return fit_small(model, callbacks=[finder], default_root_dir=folder).global_step == 8


@pytest.mark.parametrize("cls", [Lit, HandedSmall])
def test_a_search_for_a_rate_leaves_the_fit_as_it_is(cls, tmp_path):
    finder = LearningRateFinder(num_training_steps=8, update_attr=False, early_stop_threshold=None)
    (model, spaces), (plain, expected) = searched(finder, cls, default_root_dir=tmp_path)
    assert expected == [True] * 3 + [False] * 5
    if not finder_goes_back(tmp_path):
        assert spaces == expected[: len(spaces)]
        pytest.skip("behind the finder of this Lightning a fit lacks an epoch, in weight space, too")
    assert spaces == expected
    assert_equal(model, plain)


@pytest.mark.parametrize("cls", [Lit, HandedSmall])
def test_a_search_by_the_tuner_leaves_the_fit_as_it_is(cls, tmp_path):
    found = []
    for search in (True, False):
        model = ending(build_small(cls), until=3)
        model.lr = 0.01
        model.make = lambda parameters, model=model: torch.optim.Adam(parameters, lr=model.lr)
        run = trainer(max_epochs=2, default_root_dir=tmp_path)
        if search:
            Tuner(run).lr_find(model, loader(), num_training=8, update_attr=False)
        run.fit(model, loader())
        found.append(model)
    assert_equal(*found)


def test_a_search_behind_another_fit_keeps_what_that_has_trained(tmp_path):
    model = ending(build_small(), until=3)
    fit_small(model)
    weights = copy.deepcopy(model.state_dict())
    model.lr = 0.0
    model.make = lambda parameters: torch.optim.SGD(parameters, lr=model.lr)
    finder = LearningRateFinder(num_training_steps=4, update_attr=False, early_stop_threshold=None)
    fit_small(model, callbacks=[finder], default_root_dir=tmp_path, max_steps=2)
    for name, value in weights.items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=1e-4)


class GoesBack(Callback):
    """Goes back once to a checkpoint of an earlier step, as Lightning restores one."""

    def __init__(self, file, at):
        self.file, self.at = file, at

    def on_train_batch_end(self, trainer, pl_module, *args):
        if self.at is None or trainer.global_step != self.at:
            return
        self.at, checkpoint = None, torch.load(self.file, weights_only=False)
        pl_module.on_load_checkpoint(checkpoint)
        pl_module.load_state_dict(checkpoint["state_dict"])
        trainer.strategy.load_optimizer_state_dict(checkpoint)
        trainer.fit_loop.load_state_dict(checkpoint["loops"]["fit_loop"])


@pytest.mark.parametrize("cls", [Text, Handed])
def test_a_callback_that_goes_back_trains_on_in_target_space(cls, tmp_path):
    seen = Seen()
    callbacks = [every_step(tmp_path), GoesBack(tmp_path / "step=2.ckpt", 7), seen]
    model = ending(build(cls))
    fit(model, callbacks=callbacks)
    assert seen.spaces[: UNTIL + 2] == [True] * UNTIL + [False] * 2
    again = seen.spaces[UNTIL + 2 :]
    assert again[: UNTIL - 2] == [True] * (UNTIL - 2)
    assert not any(again[UNTIL - 2 :])
    assert type(model.trainer.optimizers[0]) is (torch.optim.SGD if cls is Handed else torch.optim.Adam)


@pytest.mark.parametrize("cls", [Lit, HandedSmall])
def test_a_search_for_a_batch_size_leaves_target_space(cls, tmp_path):
    class Sized(cls):
        batch_size = 8

        def train_dataloader(self):
            return loader(self.batch_size)

        val_dataloader = train_dataloader

    seen = Seen()
    finder = BatchSizeFinder(steps_per_trial=3, max_trials=2)
    model = ending(build_small(Sized), until=2)
    trainer(max_steps=4, default_root_dir=tmp_path, callbacks=[finder, seen]).fit(model)
    assert seen.spaces == [True, True, False, False]
