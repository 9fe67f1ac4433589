"""Iterators and arrays that a forward reads or writes: training has every item once, and every pass the same ones."""

import copy
import itertools
import pickle

import numpy
import pytest
import torch
from torch import nn

from ts_lightning import TargetSpace, TargetSpaceConfig
from ts_lightning.engine.running.ahead import Ahead


class Scaled(nn.Module):
    """Scales its input by what ``take`` gives, and records in which runs it got what."""

    def __init__(self, take, **held):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
        self.take = take
        vars(self).update(held)

    def forward(self, x):
        number = self.take(self)
        GIVEN.append((self.training, float(number)))
        return self.net(x + number)


GIVEN = []  # named by no hook nor step, so that passes leave it as it is


def once(m):
    return next(m.items)


def again_from_the_front(m):
    try:
        return next(m.items)
    except StopIteration:
        m.items = iter([1, 2])
        return next(m.items)


def in_a_list(m):
    return next(m.items[0])


def twice(m):
    return next(m.items) + next(m.same)


def ahead_of_training(m):
    m.table[0] += 1
    return m.table[0]


def run(model, steps=5):
    GIVEN.clear()
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    space = TargetSpace(model, x, TargetSpaceConfig(init="weights"))
    optimizer = torch.optim.SGD(space.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        space.pullback()
        optimizer.step()
        space.solve()
    space.release()
    return [number for training, number in GIVEN if training], {number for training, number in GIVEN if not training}


def shared():
    numbers = itertools.count()
    return {"items": numbers, "same": numbers}


@pytest.mark.parametrize(
    ("take", "held", "training", "passes"),
    [
        (once, lambda: {"items": itertools.count()}, [0, 1, 2, 3, 4], {0}),
        (once, lambda: {"items": (n for n in range(9))}, [0, 1, 2, 3, 4], {0}),
        (again_from_the_front, lambda: {"items": iter([1, 2])}, [1, 2, 1, 2, 1], {1}),
        (in_a_list, lambda: {"items": [itertools.count()]}, [0, 1, 2, 3, 4], {0}),
        (twice, shared, [1, 5, 9, 13, 17], {1}),
        (ahead_of_training, lambda: {"table": numpy.zeros(1)}, [1, 2, 3, 4, 5], {1}),
    ],
)
def test_training_gets_every_item_and_passes_the_first_ones(take, held, training, passes):
    assert run(Scaled(take, **held())) == (training, passes)


def test_an_iterator_that_no_pass_reads_stays_what_it_is():
    numbers = itertools.count()
    model = Scaled(lambda m: 1, items=numbers)
    run(model)
    assert model.items is numbers
    assert next(numbers) == 0


def test_what_was_read_ahead_goes_with_copies_and_has_the_iterators_attributes():
    class Batches:
        length = 3

        def __iter__(self):
            return self

        def __next__(self):
            return 1

    ahead = Ahead(Batches())
    assert ahead.length == 3
    counted = Ahead(iter(range(5)))
    assert counted.read() == 0
    for other in (copy.deepcopy(counted), pickle.loads(pickle.dumps(counted)), counted):
        assert list(other) == [0, 1, 2, 3, 4]
    with pytest.raises(AttributeError):
        counted.length  # noqa: B018
