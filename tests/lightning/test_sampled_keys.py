"""Samplers without an end are left after as many samples as the data set has, or as many draws as would find them."""

import sys

import pytest
import torch
from torch.utils.data import DataLoader, Sampler, TensorDataset

from ts_lightning.lightning.reference_data import reference_samples

ROWS = 30
DATA = TensorDataset(torch.arange(float(ROWS)), torch.arange(ROWS) % 3)


class Endless(Sampler):
    """Of the first samples alone, one by one or in batches."""

    def __init__(self, among, batch):
        self.among, self.batch = among, batch

    def __iter__(self):
        while True:
            keys = torch.randint(self.among, (self.batch or 1,)).tolist()
            yield keys if self.batch else keys[0]


class Tensors(Endless):
    def __iter__(self):
        return map(torch.tensor, super().__iter__())


class Long(Endless):
    def __len__(self):
        return sys.maxsize


class OnePass(Endless):
    """Has no end either, and a length that says where a pass ends."""

    def __iter__(self):
        while True:
            keys, size = list(range(self.among)), self.batch
            yield from (keys[i : i + size] for i in range(0, len(keys), size)) if size else keys

    def __len__(self):
        return -(-self.among // (self.batch or 1))


@pytest.mark.parametrize("selection", ["first", "random", "balanced"])
@pytest.mark.parametrize("size", [9, 1000])
@pytest.mark.parametrize("among", [12, ROWS])
@pytest.mark.parametrize("kind", [Endless, Tensors, Long, OnePass])
@pytest.mark.parametrize("batch", [None, 5])
def test_a_sampler_without_an_end(kind, batch, among, size, selection):
    sampler = kind(among, batch)
    loader = DataLoader(DATA, batch_sampler=sampler) if batch else DataLoader(DATA, 4, sampler=sampler)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    found = reference_samples(loader, size, selection, 0, iter(()))[0].long()
    assert torch.equal(torch.get_rng_state(), state)
    assert len(found.unique()) == len(found) == min(size, among)
    assert int(found.max()) < among


@pytest.mark.parametrize("length", [3, None])
def test_a_pass_ends_where_the_length_says(length):
    class Counted(OnePass):
        drawn = 0

        def __iter__(self):
            for keys in super().__iter__():
                Counted.drawn += 1
                yield keys

        def __len__(self):
            if length is None:
                raise NotImplementedError
            return length

    loader = DataLoader(DATA, batch_sampler=Counted(15, 5))
    assert len(reference_samples(loader, 100, "random", 0, iter(()))[0]) == 15
    assert Counted.drawn == (3 if length else 10 * ROWS // 5)


def test_a_data_set_that_does_not_say_its_length():
    class Squares:
        def __getitem__(self, key):
            return torch.tensor(float(key**2))

    loader = DataLoader(Squares(), 4, sampler=Endless(12, None))
    assert len(reference_samples(loader, 9, "first", 0, iter(()))) == 9
    assert len(reference_samples(loader, 20, "random", 0, iter(()))) == 12
