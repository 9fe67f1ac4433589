"""Generators of random numbers are found wherever code holds them, and nothing of a user's is called for it."""

import argparse
import logging
import random
import sys
import types

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from torch.utils.data import ConcatDataset, RandomSampler, Sampler, TensorDataset

from ts_lightning.engine.running.generators import held, unmoved


class Attribute:
    def __init__(self, held):
        self.held = held


class Slot:
    __slots__ = ("empty", "held")

    def __init__(self, held):
        self.held = held


class Listed(list):
    def __init__(self, held):
        super().__init__([1, 2])
        self.held = held

    def __iter__(self):
        raise RuntimeError("iterated")


class Shuffled(Sampler):
    def __init__(self, held):
        self.held = held

    def __len__(self):
        return 4


class Shared:
    held = None

    @staticmethod
    def draw():
        return Shared.held.random()


def through_a_class(held):
    Shared.held = held
    return Shared.draw


def through_another_file(held):
    other = types.ModuleType("tests_other_file")
    other.__file__, other.generator = __file__, held
    sys.modules["tests_other_file"] = other
    names = {"__name__": __name__, "other": other}
    exec("def draw():\n    return other.generator.random()", names)
    return names["draw"]


WAYS = {
    "attribute": Attribute,
    "slot": Slot,
    "attribute of a list": Listed,
    "attribute of a class": through_a_class,
    "variable of another file": through_another_file,
    "frozen set": lambda held: frozenset([held]),
    "many data sets": lambda held: ConcatDataset([*[TensorDataset(torch.ones(2))] * 99, WithNoise(held)]),
    "sampler that processes share": lambda held: DistributedSamplerWrapper(Shuffled(held), num_replicas=2, rank=0),
    "torch's that processes share": lambda held: DistributedSamplerWrapper(
        RandomSampler([1, 2], generator=held), num_replicas=2, rank=0
    ),
    "beside many numbers": lambda held: [list(range(1000)), *[list(range(999)) for _ in range(40)], [[[held]]]],
}


class WithNoise(TensorDataset):
    def __init__(self, held):
        super().__init__(torch.ones(2))
        self.held = held


@pytest.mark.parametrize("way", WAYS)
def test_a_generator_is_found(way):
    generator = torch.Generator()
    found = held(WAYS[way](generator))
    assert [one for one in found if one is generator]


def test_each_of_many_generators_is_found():
    assert len(held([random.Random(n) for n in range(2000)])) == 2000


class NoAttributes:
    __slots__ = ()

    def __getattr__(self, name):
        raise RuntimeError(name)


class NoClass:
    __class__ = property(lambda self: 1 / 0)


class NoDict:
    __dict__ = property(lambda self: 1 / 0)


class NoModules(torch.nn.Module):
    def __init__(self):
        pass


class NoItems(dict):
    def values(self):
        raise RuntimeError("loaded")

    __len__ = __iter__ = __getitem__ = values


class NoState(random.Random):
    def getstate(self):
        raise NotImplementedError


class Lazy:
    @property
    def data(self):
        raise RuntimeError("loaded")


@pytest.mark.parametrize(
    "kind", [NoAttributes, NoClass, NoDict, NoModules, NoItems, NoState, Lazy], ids=lambda kind: kind.__name__
)
def test_nothing_of_a_users_is_called(kind):
    generator = random.Random(0)
    assert held([kind(), generator]) == [generator]


@pytest.mark.parametrize("seed", [None, 1])
def test_generators_that_share_their_state_are_put_back(seed):
    one = np.random.default_rng(0)
    generators = [one, np.random.Generator(one.bit_generator), np.random.RandomState(np.random.MT19937(0))]
    before = one.bit_generator.state
    with unmoved(generators, seed):
        one.random()
    assert one.bit_generator.state == before


def test_many_numbers_are_passed_over():
    assert held([[[[list(range(900))]] for _ in range(900)], [[[[[[random.Random(0)]]]]]]])


@pytest.mark.parametrize("kind", [argparse.ArgumentParser, logging.Logger])
def test_what_a_program_has_for_its_words_and_its_logs_is_not_looked_through(kind):
    """A module of the command line reaches the parser, and from there all of a process's loggers."""
    one = kind("one")
    one.held = random.Random(0)
    assert held(Attribute(one)) == []
