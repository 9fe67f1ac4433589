"""Batches that a hook changes: the reference batch has the change once, or its lack is said."""

import warnings

import pytest
import torch
from lightning.pytorch import Callback
from torch.utils.data import DataLoader, Dataset

from tests.support.fits import Lit, Plain, assert_equal, build, data, fit

SAID = "A hook changes batches in on_train_batch_start, which the reference batch does not go through"


class Batches(Dataset):
    """Whole batches, which are views of its own tensors, so that a change in place stays."""

    def __init__(self):
        self.x, self.y = data()

    def __len__(self):
        return 4

    def __getitem__(self, i):
        return [self.x[16 * i : 16 * i + 16], self.y[16 * i : 16 * i + 16]]


def in_place(batch):
    batch[0].sub_(5.0).mul_(0.1)
    return batch


def another(batch):
    batch[0] = (batch[0] - 5.0) * 0.1
    return batch


HOOKS = {
    "on_before_batch_transfer": lambda change: lambda self, batch, place: change(batch),
    "transfer_batch_to_device": lambda change: lambda self, batch, device, place: change(batch),
    "on_after_batch_transfer": lambda change: lambda self, batch, place: change(batch),
}


@pytest.mark.parametrize("change", [in_place, another])
@pytest.mark.parametrize("hook", HOOKS)
def test_a_transfer_hook_counts_once_for_the_reference_batch_and_leaves_the_data_to_training(hook, change):
    models, sets = [], []
    for kind in (Plain, Lit):
        models.append(build(type("Changing", (kind,), {hook: HOOKS[hook](change)})))
        sets.append(Batches())
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=SAID)
            fit(models[-1], DataLoader(sets[-1], batch_size=None), max_epochs=1)
    reference = models[1].target_space_engine.state_dict()["reference"]
    torch.testing.assert_close(reference[0], (data()[0][:32] - 5.0) * 0.1)
    assert torch.equal(sets[0].x, sets[1].x)
    assert_equal(*({"seen": torch.cat(model.seen[-4:])} for model in models))


class Changing(Callback):
    def __init__(self, change):
        self.change = change

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.change(batch)


@pytest.mark.parametrize("change", [in_place, another])
@pytest.mark.parametrize("of", ["module", "callback"])
def test_a_change_behind_the_transfer_is_said_once(of, change):
    """Layers were solved for the inputs without it, and nothing was said."""
    model, callbacks = build(), [Changing(change)] if of == "callback" else []
    if of == "module":
        model.on_train_batch_start = lambda batch, batch_idx: change(batch) and None
    with pytest.warns(UserWarning, match=SAID) as said:
        fit(model, DataLoader(Batches(), batch_size=None), callbacks=callbacks)
    assert sum(SAID in str(one.message) for one in said) == 1


@pytest.mark.parametrize("given", ["reference_batch", "reference_forward"])
def test_a_module_that_gives_the_reference_batch_is_told_nothing(given):
    """It may have made the change there."""

    class Making(Lit):
        def on_train_batch_start(self, batch, batch_idx):
            another(batch)

    def batch(self):
        x, y = data()
        return [(x[:32] - 5.0) * 0.1, y[:32]]

    def forward(self, batch):
        return self((batch[0] - 5.0) * 0.1)

    setattr(Making, given, {"reference_batch": batch, "reference_forward": forward}[given])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=SAID)
        fit(build(Making), DataLoader(Batches(), batch_size=None))


def test_a_change_of_later_batches_is_said_once():
    """As of a hook that mixes batches now and then."""

    class Later(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if batch_idx:
                in_place(batch)

    with pytest.warns(UserWarning, match=SAID) as said:
        fit(build(), DataLoader(Batches(), batch_size=None), callbacks=[Later()])
    assert sum(SAID in str(one.message) for one in said) == 1


@pytest.mark.filterwarnings("ignore:.*dataloader_iter")
def test_a_step_that_takes_the_iterator_is_told_nothing():
    """The last batch of a validation was taken for one that had changed."""

    class Taking(Lit):
        def training_step(self, dataloader_iter):
            batch, batch_idx, _ = next(dataloader_iter)
            return super().training_step(batch, batch_idx)

        def on_train_batch_start(self, batch, batch_idx):
            pass

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=SAID)
        fit(build(Taking), DataLoader(Batches(), batch_size=None), DataLoader(Batches(), batch_size=None))
