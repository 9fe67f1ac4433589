"""Choosing the reference batch: the right samples, in the form of a training batch, with no order disturbed."""

import warnings
from collections import namedtuple
from collections.abc import Iterable

import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
)

from ts_lightning import TargetSpaceError
from ts_lightning.lightning.reference_data import batch_size, reference_samples, reference_size

Pair = namedtuple("Pair", ["image", "label"])
X, Y = torch.arange(60.0).reshape(30, 2), torch.arange(30) % 3


class Samples(Dataset):
    """Samples of a given form; ``targets`` as torchvision's data sets have it, if given."""

    def __init__(self, form, targets=None, length=30):
        self.form, self.length = form, length
        if targets is not None:
            self.targets = targets

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        return self.form(i)


class Stream(IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        yield from self.items


def choose(loader, size=7, selection="first", seed=0):
    return reference_samples(loader, size, selection, seed, iter(loader) if isinstance(loader, Iterable) else iter(()))


FORMS = {
    "tensor": lambda i: X[i],
    "tuple": lambda i: (X[i], Y[i]),
    "tuple with a number": lambda i: (X[i], i % 3),
    "namedtuple": lambda i: Pair(X[i], Y[i]),
    "dict": lambda i: {"x": X[i], "y": Y[i]},
    "nested": lambda i: {"inputs": (X[i], [X[i] + 1]), "name": f"sample {i}"},
}


def same(a, b):
    if isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in b)
    if isinstance(b, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(same(i, j) for i, j in zip(a, b, strict=True))
    return a == b


@pytest.mark.parametrize("batch", [1, 3, 64])
@pytest.mark.parametrize("form", FORMS)
def test_the_first_samples_as_the_loader_would_collate_them(form, batch):
    samples = Samples(FORMS[form])
    expected = default_collate([samples[i] for i in range(7)])
    assert same(choose(DataLoader(samples, batch, shuffle=True)), expected)
    # from a stream, batches are joined and cut
    assert same(choose(DataLoader(Stream([samples[i] for i in range(30)]), batch)), expected)


def test_a_collate_function_of_the_users():
    def collate(samples):
        return torch.stack([x for x, _ in samples]) * 2

    assert torch.equal(choose(DataLoader(TensorDataset(X, Y), 4, collate_fn=collate)), X[:7] * 2)


@pytest.mark.parametrize("selection", ["random", "balanced"])
def test_random_selections_follow_the_seed(selection):
    loader = DataLoader(TensorDataset(X, Y), 4)
    x, y = choose(loader, 12, selection, seed=1)
    index = (x[:, 0] / 2).long()
    assert torch.equal(X[index], x)
    assert torch.equal(Y[index], y)
    assert len(index.unique()) == 12
    assert same(choose(loader, 12, selection, seed=1), [x, y])
    assert not same(choose(loader, 12, selection, seed=2), [x, y])


LABELLED = {
    "tensors": lambda y: TensorDataset(torch.zeros(len(y), 2), torch.tensor(y)),
    "targets": lambda y: Samples(lambda i: (X[0], y[i]), y, len(y)),
    "only in samples": lambda y: Samples(lambda i: (X[0], y[i]), None, len(y)),
    "subset": lambda y: Subset(
        TensorDataset(torch.zeros(len(y) + 5, 2), torch.tensor([9] * 5 + y)), range(5, len(y) + 5)
    ),
    "joined": lambda y: ConcatDataset([TensorDataset(torch.zeros(1, 2), torch.tensor([c])) for c in y]),
}


@pytest.mark.parametrize("labels", LABELLED)
@pytest.mark.parametrize(
    ("classes", "size", "expected"),
    [
        ([10, 10, 10], 9, [3, 3, 3]),
        ([10, 10, 10], 10, [3, 3, 4]),
        ([20, 8, 2], 12, [2, 5, 5]),  # a rare class gives what it has
        ([20, 8, 2], 100, [2, 8, 20]),  # fewer samples than asked for
        ([25, 5, 0], 2, [1, 1]),
    ],
)
def test_balanced_counts(labels, classes, size, expected):
    y = [c for c, count in enumerate(classes) for _ in range(count)]
    _, chosen = choose(DataLoader(LABELLED[labels](y), 4), size, "balanced")
    assert sorted(chosen.unique(return_counts=True)[1].tolist()) == expected


@pytest.mark.parametrize("selection", ["first", "random"])
@pytest.mark.parametrize("size", [5, 8, 100])
def test_a_data_set_of_whole_batches(selection, size):
    batches = [(X[i : i + 4], Y[i : i + 4]) for i in range(0, 28, 4)]
    x, y = choose(DataLoader(batches, batch_size=None), size, selection)
    assert len(x) == len(y) == min(size, 28)
    index = (x[:, 0] / 2).long()
    assert torch.equal(X[index], x)
    assert torch.equal(Y[index], y)
    if selection == "first":
        assert torch.equal(index, torch.arange(len(x)))


def test_samples_of_a_loader_that_does_not_batch():
    samples = Samples(FORMS["tuple with a number"])
    assert same(choose(DataLoader(samples, batch_size=None)), [X[:7], Y[:7]])
    # a sampler that asks for whole batches by lists of indices
    sampler = BatchSampler(SequentialSampler(range(30)), 4, drop_last=False)
    assert same(choose(DataLoader(TensorDataset(X, Y), sampler=sampler, batch_size=None)), [X[:7], Y[:7]])


def test_batches_from_any_iterable():
    class Loader:
        def __iter__(self):
            return iter([{"x": X[:5], "scale": torch.tensor(2.0)}, {"x": X[5:10], "scale": torch.tensor(2.0)}])

    assert same(choose(Loader()), {"x": X[:7], "scale": torch.tensor(2.0)})


def test_a_stream_without_end_and_without_tensors():
    def forever():
        while True:
            yield ["one", "two"]

    class Loader:
        def __iter__(self):
            return forever()

    assert choose(Loader()) == ["one", "two"]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("selection", ["first", "random", "balanced"])
def test_the_random_states_are_left_alone(workers, selection):
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(TensorDataset(X, Y), 4, shuffle=True, generator=generator, num_workers=workers)
    states = torch.get_rng_state(), generator.get_state()
    reference_samples(loader, 7, selection, 0, iter(()))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert torch.equal(generator.get_state(), states[1])


def test_the_batch_is_a_copy():
    x = X.clone()
    chosen = choose(DataLoader(Stream([x[:10]]), batch_size=None))
    chosen.zero_()
    assert torch.equal(x, X)


@pytest.mark.parametrize(
    ("loader", "selection", "message"),
    [
        (DataLoader(Samples(FORMS["tuple"], length=0)), "first", "reference batch is empty.*training data set is"),
        (DataLoader(Stream([]), 4), "first", "reference batch is empty"),
        (X, "first", r"holds a Tensor; expected a DataLoader.*Override reference_batch\(\)"),
        (3, "first", "holds a int; expected a DataLoader"),
        (DataLoader(Stream([X]), 4), "random", "'random' needs a data set with a length.*found Stream.*'first'"),
        (DataLoader(Samples(FORMS["dict"]), 4), "balanced", "'balanced' needs labels; found samples of type dict"),
        (DataLoader(TensorDataset(X, X), 4), "balanced", r"float32 and shape \(30, 2\).*'random'"),
        (DataLoader(Samples(FORMS["tuple"], ["cat"] * 30)), "balanced", "found labels like 'cat'.*'random'"),
        (DataLoader([X, X], batch_size=None), "balanced", "found a data set of whole batches.*'random'"),
    ],
)
def test_refusals(loader, selection, message):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(TargetSpaceError, match=message):
            choose(loader, selection=selection)


@pytest.mark.parametrize(
    ("batch", "size"),
    [(X, 30), ((X, Y), 30), ({"step": torch.tensor(1), "x": X}, 30), (X[:0], 0), ([], None), (["a"], None), (3, None)],
)
def test_batch_size(batch, size):
    assert batch_size(batch) == size


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), 200),
        (nn.Sequential(nn.Linear(2, 2), nn.Conv1d(2, 2, 1)), 100),
    ],
)
def test_the_size_by_itself_depends_on_the_layers(model, expected):
    assert reference_size(model, "auto") == expected
    assert reference_size(model, 7) == 7


KEYS = {
    "a fold": (lambda: torch.utils.data.SubsetRandomSampler(range(20, 30)), {}, range(20, 27)),
    "weights": (lambda: torch.utils.data.WeightedRandomSampler([0.0] * 25 + [1.0] * 5, 40), {}, range(25, 30)),
    "own sampler": (lambda: [9, 3, 9, 4, 8, 1, 2, 7, 6, 5], {}, [9, 3, 4, 8, 1, 2, 7]),
    "slices": (lambda: [slice(10, 30)] * 50, {"batch_size": None}, range(10, 17)),
    "lists": (lambda: [[5, 6], [7, 8, 9, 1, 2, 3]], {"batch_size": None}, [5, 6, 7, 8, 9, 1, 2]),
}


@pytest.mark.parametrize(("sampler", "options", "expected"), KEYS.values(), ids=KEYS)
def test_samples_are_among_those_that_the_sampler_may_ask_for(sampler, options, expected):
    loader = DataLoader(TensorDataset(X, Y), sampler=sampler(), **options)
    assert torch.equal(choose(loader)[0], X[list(expected)])


def test_a_sampler_of_names_and_a_batch_sampler_of_ones_own():
    named = {f"tile{i}": (X[i], Y[i]) for i in range(30)}
    assert torch.equal(choose(DataLoader(named, 4, sampler=list(named)[5:]))[0], X[5:12])
    buckets = [[20, 21, 22], [3, 4], [28, 29, 27]]
    assert torch.equal(choose(DataLoader(TensorDataset(X, Y), batch_sampler=buckets))[0], X[[20, 21, 22, 3, 4, 28, 29]])


def test_batches_of_different_lengths_are_told():
    loader = DataLoader(Stream([torch.zeros(4, 3), torch.zeros(4, 5)]), batch_size=None)
    with pytest.raises(TargetSpaceError, match=r"do not make one reference batch.*Override reference_batch\(\)"):
        choose(loader)
