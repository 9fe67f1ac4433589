"""Data that can be read once, that keeps its place, that is opened in workers, or that is other data in a later fit."""

import random
import warnings

import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, get_worker_info

from tests.support.fits import Lit, Plain, assert_equal, build, data, fit, loader
from ts_lightning import ReferenceConfig, TargetSpaceConfig, TargetSpaceError

X, Y = data()
BATCH = 8


class Once(IterableDataset):
    """A stream that gives each of its samples once, whoever asks."""

    def __init__(self):
        self.left = list(zip(X, Y, strict=True))

    def __iter__(self):
        while self.left:
            yield self.left.pop(0)


def batches():
    return [(X[i : i + BATCH], Y[i : i + BATCH]) for i in range(0, len(X), BATCH)]


ONE_SHOT = {
    "stream": lambda: DataLoader(Once(), BATCH),
    "stream in a worker": lambda: DataLoader(Once(), BATCH, num_workers=1),
    "generator": lambda: (batch for batch in batches()),
    "iterator of a loader": lambda: iter(loader(BATCH)),
    "iterator of a list": lambda: iter(batches()),
}


@pytest.mark.parametrize("make", ONE_SHOT.values(), ids=ONE_SHOT)
def test_a_stream_that_is_read_once_is_trained_on_whole_and_in_order(make):
    model = build()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(model, make(), max_epochs=1)
    assert torch.equal(torch.cat(model.seen), X)
    reference = model.target_space_engine.state_dict()["reference"]
    assert torch.equal(reference[0], X[:32])


class KeepsPlace:
    """A loader that saves where it is and goes on from there, as torchdata's do."""

    def __init__(self):
        self.at, self.resuming, self.started = 0, False, 0

    def __iter__(self):
        self.started += 1
        self.at = self.at if self.resuming else 0
        self.resuming = False
        while self.at < len(batches()):
            self.at += 1
            yield batches()[self.at - 1]

    def __len__(self):
        return len(batches())

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at, self.resuming = state["at"], True


def test_a_loader_that_keeps_its_place_is_not_shifted(tmp_path):
    """Every checkpoint holds the place that weight space's holds, and training goes on behind it."""
    places, seen = [], []
    for kind in (Lit, Plain):
        folder = tmp_path / kind.__name__
        model = build(kind)
        saving = ModelCheckpoint(folder, "{step}", every_n_train_steps=3, save_top_k=-1)
        fit(model, KeepsPlace(), max_epochs=2, callbacks=[saving], enable_checkpointing=True)
        assert torch.equal(torch.cat(model.seen), torch.cat([X, X]))
        files = sorted(folder.iterdir())
        kept = [torch.load(file, weights_only=True)["loops"]["fit_loop"]["state_dict"] for file in files]
        places.append([state.get("combined_loader") for state in kept])
        again = build(kind)
        fit(again, KeepsPlace(), max_epochs=2, ckpt_path=folder / "step=6.ckpt")
        seen.append(torch.cat(again.seen))
        assert_equal(again, model)
    assert places[0] == places[1]
    assert torch.equal(*seen)


class OpenedInWorkers(Dataset):
    """What it reads from is opened by ``worker_init_fn``, as files are."""

    file = None

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return self.file[0][index], self.file[1][index]


def opened(worker):
    get_worker_info().dataset.file = (X, Y)


def test_data_that_workers_open():
    models = [build(), build()]
    given = DataLoader(OpenedInWorkers(), 16, num_workers=1, worker_init_fn=opened)
    for model, batches_of in zip(models, (given, loader(16)), strict=True):
        fit(model, batches_of)
    assert_equal(*models)


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_later_fit_on_other_data_takes_its_reference_batch_and_says_so(shuffle):
    model = build()
    fit(model, max_epochs=2)
    before = model(X).detach()
    other = DataLoader(TensorDataset(X + 50, Y), 16, shuffle=shuffle)
    started = []
    model.on_train_start = lambda: started.append(model(X).detach())
    with pytest.warns(UserWarning, match=r"another reference batch than the targets are of.*starts from the weights"):
        fit(model, other, max_epochs=1)
    reference = model.target_space_engine.state_dict()["reference"]
    assert torch.equal(reference[0], X[:32] + 50)
    torch.testing.assert_close(started[0], before, rtol=1e-3, atol=1e-3)


def test_a_later_fit_on_the_same_data_goes_on_without_a_word():
    models = [build(), build()]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*arget space starts.*")
        for _ in range(2):
            fit(models[0], max_epochs=1)
    fit(models[1], max_epochs=2)
    assert models[0].losses[4] == models[1].losses[4]


class Scaling(DataLoader):
    """A loader whose batches are not what its data set and its collate function make."""

    def __iter__(self):
        for x, y in super().__iter__():
            yield x / 30, y


class ScalingInside(DataLoader):
    def _get_iterator(self):
        return ((x / 30, y) for x, y in super()._get_iterator())


def set_on_the_instance(*args, **options):
    made = DataLoader(*args, **options)
    made._get_iterator = lambda: ((x / 30, y) for x, y in DataLoader._get_iterator(made))
    return made


OWN_ITERATORS = {"__iter__": Scaling, "_get_iterator": ScalingInside, "on the instance": set_on_the_instance}


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("make", OWN_ITERATORS.values(), ids=OWN_ITERATORS)
def test_a_loader_with_an_iterator_of_its_own_is_read_ahead(make, shuffle):
    given, seen = TensorDataset(30 * X, Y), []
    for kind in (Lit, Plain):
        model = build(kind)
        fit(model, make(given, 16, shuffle=shuffle), max_epochs=2)
        seen.append(torch.cat(model.seen))
        if kind is Lit:
            assert torch.equal(model.target_space_engine.state_dict()["reference"][0], seen[0][:32])
    assert torch.equal(*seen)


def test_a_loader_with_an_iterator_of_its_own_has_no_selection():
    model = build()
    model.target_space = TargetSpaceConfig(reference=ReferenceConfig(selection="random"))
    with pytest.raises(TargetSpaceError, match=r"iterator of its own; found Scaling\. Use selection='first'"):
        fit(model, Scaling(TensorDataset(X, Y), 16))


DRAWS = {
    "torch": lambda: torch.randn(3),
    "numpy": lambda: torch.from_numpy(np.random.randn(3)).float(),  # noqa: NPY002
    "python": lambda: torch.tensor([random.gauss(0, 1) for _ in range(3)]),
}


class Drawn(IterableDataset):
    """A stream that draws its samples from a global random generator."""

    def __init__(self, draw):
        self.draw = draw

    def __iter__(self):
        while True:
            x = self.draw()
            yield x, (x.prod() > 0).long()


class DrawnBatches(Drawn):
    """An iterable of batches, and no loader."""

    def __iter__(self):
        return iter(DataLoader(Drawn(self.draw), BATCH))


class DrawnLoader(Drawn):
    def __new__(cls, draw):
        return DataLoader(Drawn(draw), BATCH)


@pytest.mark.parametrize("fits", [1, 2])
@pytest.mark.parametrize("make", [DrawnLoader, DrawnBatches])
@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_a_stream_that_draws_at_random_goes_on_and_does_not_repeat_itself(draw, make, fits):
    seen = []
    for kind in (Lit, Plain):
        model = build(kind)
        seed_everything(3, verbose=False)
        for _ in range(fits):
            fit(model, make(draw), max_epochs=2, limit_train_batches=8)
        seen.append(torch.cat(model.seen))
    assert len(seen[0].unique(dim=0)) == fits * 16 * BATCH
    assert torch.equal(*seen)


def without_a_third(samples):
    """A collate function that drops bad samples, and there may be only such."""
    kept = [sample for sample in samples if int(sample[0]) % 3]
    return (X[[int(i) for i, _ in kept]], torch.stack([y for _, y in kept])) if kept else None


INDEXED = list(zip(torch.arange(len(X)), Y, strict=True))
DROPPING = {
    "iterable": lambda: Whole([None, *batches()]),
    "stream": lambda: DataLoader(Whole([None, None, *batches()]), batch_size=None, collate_fn=lambda batch: batch),
    "whole batches": lambda: DataLoader([None, *batches()], batch_size=None, collate_fn=lambda batch: batch),
    "samples": lambda: DataLoader(INDEXED, 1, collate_fn=without_a_third),
    "own iterator": lambda: Plainly(INDEXED, 1, collate_fn=without_a_third),
}


class Whole(IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


class Plainly(DataLoader):
    def __iter__(self):
        return super().__iter__()


@pytest.mark.parametrize("make", DROPPING.values(), ids=DROPPING)
@pytest.mark.filterwarnings("ignore:.*yielded None")
def test_batches_that_are_none_are_skipped(make):
    model = build()
    fit(model, make(), max_epochs=1)
    reference = model.target_space_engine.state_dict()["reference"][0]
    assert torch.equal(reference, torch.cat(model.seen)[: len(reference)])
    assert len(reference) >= 21


def test_samples_that_are_all_dropped_are_told():
    with pytest.raises(TargetSpaceError, match=r"collate_fn returned None for 32 samples.*reference_batch\(\)"):
        fit(build(), DataLoader(INDEXED, 8, collate_fn=lambda samples: None))
