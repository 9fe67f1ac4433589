"""Weights that are written in a loop of one's own, and what a space says of copies."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from ts_lightning import TargetSpace, TargetSpaceConfig, TargetSpaceError


def network(seed=1):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))


class Loop:
    """Training of one's own, which has made some steps; ``middle`` is called between a step and its solve."""

    def __init__(self, steps=0, config=None, state=None, model=None):
        x = torch.randn(60, 4, generator=torch.Generator().manual_seed(3))
        self.x, self.y = x, (x[:, 0] * x[:, 1] > 0).long()
        self.model = network() if model is None else model
        self.space = TargetSpace(self.model, x[:30], config, state=state)
        self.optimizer = torch.optim.Adam(self.space.parameters(), lr=0.01)
        for _ in range(steps):
            self.step()

    def backward(self):
        self.optimizer.zero_grad()
        loss = functional.cross_entropy(self.model(self.x), self.y)
        loss.backward()
        self.space.pullback()
        return loss.item()

    def step(self, middle=lambda: None):
        loss = self.backward()
        self.optimizer.step()
        middle()
        self.space.solve()
        return loss

    def written_by(self, write):
        """The weights that a function writes, by name."""
        before = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        write(self.model)
        return {n: p.detach().clone() for n, p in self.model.named_parameters() if not torch.equal(p, before[n])}

    def holds(self, written):
        """Whether the model has these weights."""
        return all(torch.allclose(p, written.get(n, p), atol=1e-5) for n, p in self.model.named_parameters())


def through_data(model):
    for parameter in model.parameters():
        parameter.data.mul_(0.5)


def in_place(model):
    with torch.no_grad():
        model[2].weight.clamp_(-0.1, 0.1)


def from_a_checkpoint(model):
    model.load_state_dict(network(seed=7).state_dict())


def from_a_vector(model):
    vector_to_parameters(0.5 * parameters_to_vector(model.parameters()), model.parameters())


WRITES = [through_data, in_place, from_a_checkpoint, from_a_vector]
CONFIGS = [{}, {"untangle": 3}, {"cascade_gradient": False}, {"cascade_gradient": False, "untangle": 3}]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("write", WRITES)
def test_weights_written_behind_a_solve_are_kept_by_the_next_solve(write, config):
    loop = Loop(2, TargetSpaceConfig(**config))
    written = loop.written_by(write)
    with pytest.warns(UserWarning, match="were changed since the last optimizer step. They are kept"):
        loop.space.solve()
    assert loop.holds(written)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses = [loop.step() for _ in range(3)]
    assert losses[2] < losses[0]
    assert not loop.holds(written)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("write", WRITES)
def test_weights_written_behind_a_solve_are_kept_by_the_next_step(write, config):
    loop = Loop(2, TargetSpaceConfig(**config))
    written = loop.written_by(write)
    for group in loop.optimizer.param_groups:
        group["lr"] = 0.0
    with pytest.warns(UserWarning, match="were changed since the last optimizer step. They are kept"):
        loop.step()
    assert loop.holds(written)


@pytest.mark.parametrize("write", WRITES)
def test_weights_written_behind_a_step_and_ahead_of_its_solve_are_refused(write):
    loop = Loop(1)
    with pytest.raises(TargetSpaceError, match=r"behind optimizer.step\(\) and ahead of solve\(\)"):
        loop.step(middle=lambda: write(loop.model))


def test_weights_that_are_put_back_are_none_that_were_written(recwarn):
    loop, other = Loop(), Loop()
    for _ in range(3):
        loop.step()
        before = copy.deepcopy(loop.model.state_dict())
        through_data(loop.model)
        loop.model.load_state_dict(before)
        other.step()
    assert torch.equal(loop.model(loop.x), other.model(loop.x))
    assert not recwarn.list


def test_a_loop_goes_on_bit_for_bit_from_three_states():
    loop = Loop(3)
    saved = io.BytesIO()
    torch.save((loop.model.state_dict(), loop.space.state_dict(), loop.optimizer.state_dict()), saved)
    expected = [loop.step() for _ in range(3)]
    saved.seek(0)
    of_model, of_space, of_optimizer = torch.load(saved, weights_only=True)
    model = network(seed=5)
    model.load_state_dict(of_model)
    again = Loop(state=of_space, model=model)
    again.optimizer.load_state_dict(of_optimizer)
    assert [again.step() for _ in range(3)] == expected


def test_a_pullback_behind_a_loaded_state_asks_for_a_solve():
    loop = Loop()
    loop.space.load_state_dict(loop.space.state_dict())
    with pytest.raises(TargetSpaceError, match=r"found no solve. Call solve\(\) after load_state_dict\(\)"):
        loop.backward()
    loop.optimizer.zero_grad()
    loop.space.solve()
    loop.step()


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_space_that_solves_is_neither_copied_nor_pickled_and_its_model_is(make):
    loop = Loop(1)
    with pytest.raises(TargetSpaceError, match=r"neither copied nor pickled.*state="):
        make(loop.space)
    model = pickle.loads(pickle.dumps(copy.deepcopy(loop.model)))
    assert torch.equal(model(loop.x), loop.model(loop.x))


def test_a_write_that_autograd_counts_is_seen_behind_a_step_however_late():
    loop = Loop(20)
    with pytest.raises(TargetSpaceError, match=r"behind optimizer.step\(\) and ahead of solve\(\)"):
        loop.step(middle=lambda: in_place(loop.model))


def test_weights_that_were_all_frozen_and_thawed_train_on():
    loop = Loop(1)
    loop.model.requires_grad_(False)
    loop.space.solve()
    frozen = copy.deepcopy(loop.model.state_dict())
    loop.model.requires_grad_(True)
    for _ in range(2):  # the first solves around them
        loop.step()
    assert not any(torch.equal(p, frozen[name]) for name, p in loop.model.named_parameters())


def test_weights_are_adopted_by_the_names_of_their_modules():
    loop = Loop()
    loop.model[0].weight.data.zero_()
    loop.space.adopt_weights(["0"])
    assert not loop.model[0].weight.any()
    for modules, error, message in (
        ("0", TypeError, r"modules='0': expected a list of names or globs, as in \['0'\]"),  # it meant every '0' within
        (0, TypeError, "modules=0: expected a list"),
        (["0", "9"], TargetSpaceError, "modules: '9' matches no layer"),
        (["1"], TargetSpaceError, "modules: '1' matches no layer"),
    ):
        with pytest.raises(error, match=message):
            loop.space.adopt_weights(modules)
