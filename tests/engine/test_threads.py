"""Layers that a forward calls in threads that it starts: left in weight space and named, or refused by name."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from tests.support.middles import EXACT, batch, net
from ts_lightning import TargetSpace, TargetSpaceConfig, TargetSpaceError

THREAD = "called in a thread of its own"


def one_thread(m, h):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(m.e, h).result()


def two_threads(m, h):
    """Its weights were solved twice at a time, and counted as written from outside."""
    with ThreadPoolExecutor(2) as pool:
        return torch.cat(list(pool.map(m.e, h.chunk(2))))


def beside_a_plain_call(m, h):
    return m.e(h) + one_thread(m, h)


def by_function(m, h):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: linear(h, m.e.weight, m.e.bias)).result()


REASONS = {
    one_thread: THREAD,
    two_threads: THREAD,
    beside_a_plain_call: THREAD,
    by_function: "not called in the reference forward",  # as far as is seen
}


@pytest.mark.parametrize("run", REASONS, ids=lambda run: run.__name__)
def test_it_is_left_in_weight_space_and_trains_as_there(run):
    model = net(run, e=nn.Linear(6, 6))
    space = TargetSpace(model, batch(), EXACT)
    assert [(left.name, left.reason) for left in space.left] == [("2.e", REASONS[run])]
    twin = copy.deepcopy(model)
    for each in (model, twin):
        each(batch(8, seed=2)).square().sum().backward()
    for one, other in zip(model[2].parameters(), twin[2].parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    assert space.pullback()


def test_a_layer_that_is_named_is_refused_with_what_to_do():
    with pytest.raises(TargetSpaceError, match=rf"layer '2\.e'.* {THREAD}.*Add '2\.e' to exclude"):
        TargetSpace(net(one_thread, e=nn.Linear(6, 6)), batch(), TargetSpaceConfig(layers=["0", "4", "2.e"]))
