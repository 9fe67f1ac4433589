"""Data that can be read once, that keeps its place, that is opened in workers, or that is other data in a later fit."""

import warnings

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, get_worker_info

from tests.support.fits import Lit, Plain, assert_equal, build, data, fit, loader

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
