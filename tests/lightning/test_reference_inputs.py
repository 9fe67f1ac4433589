"""Layers are solved for the inputs that training_step gives them, also where forward's signature says other ones."""

import functools
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset

from tests.support.fits import trainer
from tests.support.points import Base, X, Y, fit
from ts_lightning import ReferenceConfig, TargetSpaceConfig, TargetSpaceError

LARGE = 100 + 30 * X
RUNS = []  # of training_step; passes over the reference batch put back what they add
TOTAL = SimpleNamespace(runs=0)  # in an object of a library, which nothing puts back


def scaled(x):
    return (x - 100) / 30


class Counting(Base):
    def training_step(self, batch, batch_idx):
        RUNS.append(batch_idx)
        TOTAL.runs += 1
        return self.loss(batch)

    def loss(self, batch):
        return functional.cross_entropy(self(batch[0]), batch[1])


class Standardised(Counting):
    def loss(self, batch):
        return functional.cross_entropy(self(scaled(batch[0])), batch[1])


class InPlace(Counting):
    def loss(self, batch):
        batch[0].sub_(100).div_(30)
        return super().loss(batch)


class UnderItsKey(Counting):
    def loss(self, batch):
        batch["x"] = scaled(batch["x"])
        return functional.cross_entropy(self(batch["x"]), batch["y"])


class UnderAnotherKey(UnderItsKey):
    def loss(self, batch):
        batch["scaled"] = scaled(batch["x"])
        return functional.cross_entropy(self(batch["scaled"]), batch["y"])


class Denoising(Base):
    """Pairs of what is wanted and what is given."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 3)

    def training_step(self, batch, batch_idx):
        RUNS.append(batch_idx)
        TOTAL.runs += 1
        clean, noisy = batch
        return functional.mse_loss(self(noisy), clean)


class Between(Counting):
    """Only a later layer receives something else than in forward."""

    def __init__(self):
        super().__init__()
        self.net, self.readout = nn.Linear(3, 3), nn.Linear(3, 2)
        nn.init.eye_(self.net.weight)
        nn.init.zeros_(self.net.bias)

    def forward(self, x):
        return self.readout(self.net(x))

    def loss(self, batch):
        return functional.cross_entropy(self.readout(scaled(self.net(batch[0]))), batch[1])


def keyed(x):
    return [{"x": row, "y": y} for row, y in zip(x, Y, strict=True)]


PLAIN = list(zip(LARGE, Y, strict=True))
#: module, samples, layer, what it has to receive, and whether training_step has to run for that
GIVEN = {
    "as the signature says": (Counting, PLAIN, "net", LARGE, False),
    "standardised": (Standardised, PLAIN, "net", X, True),
    "standardised in place": (InPlace, PLAIN, "net", X, True),
    "written to the batch": (UnderItsKey, keyed(LARGE), "net", X, True),
    "added to the batch": (UnderAnotherKey, keyed(LARGE), "net", X, True),
    "another item": (Denoising, list(zip(X, X + 1, strict=True)), "net", X + 1, False),
    "within the network": (Between, PLAIN, "readout", None, True),
}


@pytest.mark.parametrize(("kind", "samples", "layer", "expected", "steps"), GIVEN.values(), ids=GIVEN)
def test_the_layer_receives_what_training_gives_it(kind, samples, layer, expected, steps):
    torch.manual_seed(0)
    model, received, begun = kind(), [], []
    model.on_train_start = lambda: begun.append(TOTAL.runs)
    RUNS.clear()
    fit(model, samples)
    assert RUNS == [0, 1, 2, 0, 1, 2]
    assert (TOTAL.runs - begun[0] > 6) == steps
    state = model.target_space_engine.state_dict()["reference"]
    batch = state if isinstance(state, dict) else list(state)
    model.get_submodule(layer).register_forward_pre_hook(lambda _, args: received.append(args[0].detach()))
    model.reference_forward(batch)
    if expected is None:
        expected = scaled(model.net(LARGE)).detach()
    torch.testing.assert_close(received[0], expected, rtol=1e-4, atol=1e-4)


def test_inputs_drawn_in_training_step_are_the_same_in_every_pass():
    class Noisy(Counting):
        def loss(self, batch):
            return functional.cross_entropy(self(batch[0] + torch.randn_like(batch[0])), batch[1])

    model, received = Noisy(), []
    model.net.register_forward_pre_hook(lambda _, args: received.append(args[0]))
    fit(model, PLAIN)
    whole = [x.detach() for x in received if len(x) == len(X)][1:]  # the first is by the signature
    assert len(whole) > 3
    assert not torch.equal(whole[0], LARGE)
    assert all(torch.equal(x, whole[0]) for x in whole)


def test_a_training_step_that_cannot_be_run_on_the_reference_batch_leaves_the_signature():
    class OfOneSize(Counting):
        def loss(self, batch):
            assert len(batch[0]) == 8
            return functional.cross_entropy(self(scaled(batch[0])), batch[1])

    model = OfOneSize()
    fit(model, PLAIN)
    assert set(model.target_space_engine.targets) == {"net"}


def test_a_training_step_that_sets_the_mode_is_not_compared():
    """Dropout is off in the pass over the reference batch, and would be on behind ``self.train()``."""

    class SetsMode(Counting):
        def forward(self, x):
            return self.net(functional.dropout(x, 0.5, self.training))

        def loss(self, batch):
            self.train()
            return super().loss(batch)

    model = SetsMode()
    begun = []
    model.on_train_start = lambda: begun.append(TOTAL.runs)
    fit(model, PLAIN)
    assert TOTAL.runs - begun[0] == 6


def wrapped(step):
    @functools.wraps(step)
    def outer(self, *args, **options):
        return step(self, *args, **options)

    return outer


class NoIndex(Base):
    forward = None

    def training_step(self, batch):
        return functional.cross_entropy(self.net(batch[0]), batch[1])


class All(NoIndex):
    def training_step(self, *args):
        (x, y), index = args
        return functional.cross_entropy(self.net(x), y) + 0 * index


class Rest(NoIndex):
    def training_step(self, batch, *rest):
        assert len(rest) == 1
        return super().training_step(batch)


class Options(NoIndex):
    def training_step(self, batch, **options):
        assert not options
        return super().training_step(batch)


class ThirdOptional(NoIndex):
    def training_step(self, batch, batch_idx, dataloader_idx="none"):
        assert dataloader_idx == "none"
        return super().training_step(batch)


class Wrapped(NoIndex):
    @wrapped
    def training_step(self, batch):
        return functional.cross_entropy(self.net(batch[0]), batch[1])


@pytest.mark.parametrize("kind", [NoIndex, All, Rest, Options, ThirdOptional, Wrapped])
def test_training_step_is_given_what_lightning_gives_it(kind):
    model = kind()
    fit(model, list(zip(X, Y, strict=True)))
    assert set(model.target_space_engine.targets) == {"net"}


class View(Base):
    def forward(self, x):
        return self.net(x.view(8, 3))

    def training_step(self, batch, batch_idx):
        return functional.cross_entropy(self(batch[0]), batch[1])


class Hidden(View):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(3, 3, batch_first=True)
        self.register_buffer("hidden", torch.zeros(1, 8, 3))

    def forward(self, x):
        return self.net(self.rnn(x[:, None], self.hidden)[0][:, -1])


class ViewInStep(NoIndex):
    def training_step(self, batch, batch_idx):
        return functional.cross_entropy(self.net(batch[0].view(8, 3)), batch[1])


class Batches(IterableDataset):
    """A stream of whole batches."""

    def __iter__(self):
        return zip(X.split(8), Y.split(8), strict=True)


SAMPLES = list(zip(X, Y, strict=True))
LOADERS = {
    "batch_size": lambda: DataLoader(SAMPLES, 8),
    "batch_sampler": lambda: DataLoader(SAMPLES, batch_sampler=DataLoader(SAMPLES, 8).batch_sampler),
    "lists": lambda: DataLoader(SAMPLES, batch_sampler=[list(range(i, i + 8)) for i in range(0, len(X), 8)]),
    "stream": lambda: DataLoader(Batches(), batch_size=None),
}


@pytest.mark.parametrize("way", LOADERS)
@pytest.mark.parametrize("kind", [View, Hidden, ViewInStep])
def test_a_model_of_one_batch_size_is_told_to_ask_for_it(kind, way):
    loader = LOADERS[way]()
    model = kind()
    with pytest.raises(TargetSpaceError, match=r"can be run on 8 samples, .*ReferenceConfig\(size=8\)"):
        trainer().fit(model, loader)
    model.target_space = TargetSpaceConfig(reference=ReferenceConfig(size=8))
    trainer().fit(model, loader)
    assert "net" in model.target_space_engine.targets


def test_a_model_that_fails_for_another_reason_is_told_of_no_size():
    class Failing(View):
        def forward(self, x):
            return self.net(x[:, :2])

    with pytest.raises(TargetSpaceError, match=r"Override reference_forward\(batch\) to call the model with it\.$"):
        fit(Failing(), list(zip(X, Y, strict=True)))
