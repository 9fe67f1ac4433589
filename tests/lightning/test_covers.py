"""Objects of Lightning's that are copied or pickled in mid-fit, while target space stands for their methods."""

import copy
import pickle
from collections import Counter
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.callbacks import BaseFinetuning
from torch.utils.data import DataLoader, default_collate

from tests.support.fits import Lit, Plain, assert_equal, build, loader, trainer
from ts_lightning import TargetSpaceMonitor

ADAM = partial(torch.optim.Adam, lr=0.02)  # which pickles take


class Data(LightningDataModule):
    """``collate`` has this object, and with it the Trainer."""

    def collate(self, items):
        return default_collate(items)

    def train_dataloader(self):
        return DataLoader(loader().dataset, 16, collate_fn=self.collate)

    val_dataloader = train_dataloader


class Finetuning(BaseFinetuning):
    def freeze_before_training(self, pl_module):
        pass

    def finetune_function(self, pl_module, epoch, optimizer):
        pass


class Copies(Callback):
    """Copies of everything that target space may stand in, made once in mid-fit."""

    def __init__(self, way):
        self.way, self.made = way, None

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if self.made is None and trainer.global_step == 2:
            self.made = ()  # ahead of a copy of this one
            kinds = (trainer, trainer.strategy, trainer.precision_plugin, trainer.fit_loop, trainer.callbacks)
            self.made = [self.way(one) for one in kinds]


def pickled(one):
    return pickle.loads(pickle.dumps(one))


def fitted(*callbacks):
    model = build()
    model.make = ADAM
    trainer(callbacks=[*callbacks, Finetuning(), TargetSpaceMonitor()]).fit(model, datamodule=Data())
    return model


@pytest.mark.parametrize("way", [copy.deepcopy, pickled])
def test_copies_stand_for_themselves_and_the_fit_goes_on(way):
    copies = Copies(way)
    assert_equal(fitted(copies), fitted())
    copied, strategy, precision, fit_loop, callbacks = copies.made
    assert copied.lightning_module.target_space_engine is None
    assert fit_loop.on_run_start.__self__ is fit_loop
    for one in (copied.strategy, strategy):
        assert one.training_step.__self__ is one
    assert precision.clip_gradients.__self__ is precision
    for within in (copied.callbacks, callbacks):
        (finetuning,) = [callback for callback in within if isinstance(callback, Finetuning)]
        assert finetuning._apply_mapping_to_param_groups is Finetuning._apply_mapping_to_param_groups


@pytest.mark.parametrize("way", [copy.deepcopy, pickled])
def test_the_module_of_a_copied_trainer_trains_in_target_space(way):
    copies = Copies(way)
    fitted(copies)
    module = copies.made[0].lightning_module
    before = build(Plain)
    before.load_state_dict(module.state_dict())
    trainer(max_epochs=1).fit(module, loader())
    assert module.target_space_engine is not None
    assert not torch.equal(module.net[0].weight, before.net[0].weight)


class Given:
    """Gives the Trainer's strategy methods of its own ahead of the fit."""

    names = ("setup_optimizers", "optimizer_step", "on_train_batch_start", "teardown")

    def __init__(self):
        self.calls = Counter()

    def give(self, strategy):
        for name in self.names:
            setattr(strategy, name, partial(self._call, name, getattr(strategy, name)))
        return {name: getattr(strategy, name) for name in self.names}

    def _call(self, name, own, *args, **kwargs):
        self.calls[name] += 1
        return own(*args, **kwargs)


def test_methods_that_a_user_has_given_an_object_are_called_and_stay():
    """They were passed by, or gone behind the fit."""
    found = []
    for cls in (Lit, Plain):
        model, given, run = build(cls), Given(), trainer(max_epochs=2)
        methods = given.give(run.strategy)
        for _ in range(2):
            run.fit_loop.epoch_progress.reset()
            run.fit(model, loader())
            assert {name: vars(run.strategy)[name] for name in given.names} == methods
        found.append(given.calls)
    assert found[0] == found[1]
    assert set(found[0]) == set(Given.names)


class Started(Callback):
    """Pickles what a loader gives to workers that are started anew, as on macOS and Windows, where it starts them."""

    def __init__(self):
        self.labels = []

    def on_train_epoch_start(self, trainer, pl_module):
        self._start(trainer.train_dataloader)

    def on_validation_start(self, trainer, pl_module):
        self._start(trainer.val_dataloaders)

    def _start(self, given):
        collate = pickled(given.collate_fn)
        self.labels.append(collate(list(given.dataset))[1])


def test_workers_that_start_anew_are_given_a_method_of_the_datamodule():
    """The Trainer that it holds could not be pickled, so that the first validation ended the fit."""
    started = Started()
    fitted(started)
    assert len(started.labels) == 4
    assert all(torch.equal(labels, loader().dataset[:][1]) for labels in started.labels)
