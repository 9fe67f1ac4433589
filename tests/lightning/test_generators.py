"""Of generators that data sets, hooks and modules hold, training draws the same random numbers as in weight space."""

import random
import weakref
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, Subset, default_collate

from tests.support.fits import CONFIG, Lit, Plain, build, data, fit, trainer

KINDS = {
    "torch": (lambda: torch.Generator().manual_seed(0), lambda g: float(torch.randn((), generator=g))),
    "python": (lambda: random.Random(0), lambda g: g.gauss(0, 1)),
    "numpy": (lambda: np.random.default_rng(0), lambda g: float(g.normal())),
    "numpy, legacy": (lambda: np.random.RandomState(0), lambda g: float(g.normal())),
    "of the script": (lambda: SCRIPTS, lambda g: float(SCRIPTS.normal())),
}
SCRIPTS = np.random.default_rng(0)


@pytest.fixture(params=KINDS)
def kind(request):
    SCRIPTS.bit_generator.state = np.random.default_rng(0).bit_generator.state
    make, draw = KINDS[request.param]
    return make, draw


class Noise:
    def __init__(self, kind):
        make, self.draw = kind
        self.generator = make()

    def __call__(self, x):
        return x + 0.1 * self.draw(self.generator)


class Samples(Dataset):
    def __init__(self, noise=lambda x: x):
        self.x, self.y = data()
        self.transforms = [noise]

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.transforms[0](self.x[index]), self.y[index]


class Stream(IterableDataset):
    def __init__(self, noise):
        self.samples = Samples(noise)

    def __iter__(self):
        return (self.samples[i] for i in range(64))


class Shuffled(Sampler):
    def __init__(self, noise):
        self.options = {"noise": noise}

    def __len__(self):
        return 64

    def __iter__(self):
        return iter(torch.argsort(torch.tensor([float(self.options["noise"](0.0)) for _ in range(64)])).tolist())


def collated(noise, items):
    x, y = default_collate(items)
    return noise(x), y


def enclosed(noise):
    return lambda items: collated(noise, items)


def transferred(cls, name):
    """A class whose transfer hook adds noise of its own."""

    def hook(self, batch, dataloader_idx):
        return [self.noise(batch[0]), batch[1]]

    return type(cls.__name__, (cls,), {name: hook})


class Data(LightningDataModule):
    def __init__(self, loader):
        super().__init__()
        self.loader = loader

    def train_dataloader(self):
        return self.loader


LOADERS = {
    "data set": lambda noise: DataLoader(Samples(noise), 16),
    "part of one": lambda noise: DataLoader(Subset(Samples(noise), range(48)), 16, shuffle=True),
    "sampler": lambda noise: DataLoader(Samples(), 16, sampler=Shuffled(noise)),
    "collate, partial": lambda noise: DataLoader(Samples(), 16, collate_fn=partial(collated, noise)),
    "collate, closure": lambda noise: DataLoader(Samples(), 16, collate_fn=enclosed(noise)),
    "stream": lambda noise: DataLoader(Stream(noise), 16),
    # by fork, since these data sets cannot be pickled
    "workers": lambda noise: DataLoader(
        Samples(noise), 16, num_workers=1, persistent_workers=True, multiprocessing_context="fork"
    ),
}


def seen(cls, make, noise, *, datamodule=False, **options):
    """The batches that training sees."""
    model = build(cls, **options)
    model.noise = noise if transfers(cls) else None
    given = make(noise)
    if datamodule:
        trainer(max_epochs=2).fit(model, datamodule=given)
    else:
        trainer(max_epochs=2).fit(model, given)
    return model.seen


def transfers(cls):
    return any(name in vars(cls) for name in ("on_before_batch_transfer", "on_after_batch_transfer"))


def same(kind, cls, plain, make, **options):
    batches = seen(cls, make, Noise(kind), **options)
    SCRIPTS.bit_generator.state = np.random.default_rng(0).bit_generator.state
    expected = seen(plain, make, Noise(kind), **options)
    assert len(batches) == len(expected)
    assert all(map(torch.equal, batches, expected))


@pytest.mark.parametrize("loader", LOADERS)
def test_training_sees_the_same_samples(kind, loader):
    same(kind, Lit, Plain, LOADERS[loader])


@pytest.mark.parametrize("loader", ["data set", "stream"])
def test_a_datamodule_may_hold_the_data(kind, loader):
    same(kind, Lit, Plain, lambda noise: Data(LOADERS[loader](noise)), datamodule=True)


@pytest.mark.parametrize("name", ["on_before_batch_transfer", "on_after_batch_transfer"])
def test_hooks_of_the_module_draw_the_same(kind, name):
    same(kind, transferred(Lit, name), transferred(Plain, name), lambda noise: DataLoader(Samples(), 16))


@pytest.mark.parametrize("name", ["on_before_batch_transfer", "on_after_batch_transfer"])
def test_hooks_of_a_datamodule_draw_the_same(kind, name):
    def make(noise):
        given = transferred(Data, name)(DataLoader(Samples(), 16))
        given.noise = noise
        return given

    same(kind, Lit, Plain, make, datamodule=True)


def test_a_data_set_may_hold_a_proxy_of_what_is_gone(kind):
    def make(noise):
        samples = Samples(noise)
        samples.owner = weakref.proxy(Samples())
        return DataLoader(samples, 16)

    same(kind, Lit, Plain, make)


def test_a_refresh_draws_none_either(kind):
    class Refreshed(Lit):
        target_space = replace(CONFIG, reference=replace(CONFIG.reference, refresh=1, selection="random"))

    same(kind, Refreshed, Plain, LOADERS["data set"])


@pytest.mark.parametrize("where", ["forward", "training_step"])
def test_the_module_itself_draws_the_same(kind, where):
    if kind[0]() is SCRIPTS:
        pytest.skip("forward's own global variables are not put back")

    class Drawing(Plain):
        def __init__(self, **options):
            super().__init__(**options)
            self.numbers = Noise(kind)

        def forward(self, x):
            return self.net(self.numbers(x) if where == "forward" else x)

        def training_step(self, batch, batch_idx):
            loss = self.loss(batch if where == "forward" else (self.numbers(batch[0]), batch[1]))
            self.seen.append(self.numbers.generator)
            return loss

    class Target(Lit, Drawing):
        pass

    found, expected = build(Target), build(Drawing)
    fit(found), fit(expected)
    draw = kind[1]
    assert draw(found.numbers.generator) == draw(expected.numbers.generator)
    space = found.target_space_engine
    before = [p.detach().clone() for p in found.parameters()]
    space.solve()
    assert all(map(torch.equal, before, found.parameters()))


@pytest.mark.parametrize("kind", [*KINDS, "global"])
def test_another_fit_on_augmented_data_goes_on_from_its_targets(kind):
    noise = Noise(KINDS[kind]) if kind in KINDS else lambda x: x + 0.1 * torch.randn(())
    model, batches = build(), DataLoader(Samples(noise), 16)
    fit(model, batches)
    fit(model, batches)
    assert "targets restored" in model.target_space_engine.describe()
