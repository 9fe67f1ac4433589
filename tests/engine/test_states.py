"""A state goes on to the last bit in a loop of one's own, behind layers frozen and thawed and weights written."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.support.changes import Change
from tests.support.fits import assert_equal
from ts_lightning import ReferenceConfig, TargetSpace, TargetSpaceConfig, TargetSpaceError

STEPS = 7


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(5, 6, batch_first=True, bidirectional=True)
        self.norm = nn.LayerNorm(12)
        self.attention = nn.MultiheadAttention(12, 2, batch_first=True)
        self.weight = nn.Parameter(0.3 * torch.randn(8, 12))
        self.last = nn.LayerNorm(8)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        x = self.norm(self.rnn(x)[0])
        x = self.attention(x, x, x, need_weights=False)[0]
        return self.head(self.last(torch.tanh(functional.linear(x[:, -1], self.weight))))


CHANGES = {
    "recurrent": Change(("rnn",), range(2, 5)),
    "a part of the recurrent": Change(("rnn.weight_hh_l0",), range(2, 5)),
    "a projection": Change(("attention.in_proj",), range(2, 5)),
    "a function's weight": Change(("weight",), range(2, 5)),
    "the last": Change(("head",), range(2, STEPS)),
    "all that is solved": Change(("rnn", "attention", "weight", "head"), range(2, 5)),
    "a norm": Change(("norm",), range(2, 5)),
    "written": Change(written=("rnn", "weight"), behind=(2, 3)),
    "a norm written": Change(written=("norm",), behind=(2, 3)),
    "a norm frozen from the start": Change(("norm",), range(5)),
    "a layer frozen from the start": Change(("rnn",), range(5)),
    "frozen and written": Change(("rnn",), range(2, 6), written=("rnn",), behind=(3,)),
    "written and frozen": Change(("weight",), range(3, 6), written=("weight",), behind=(2,)),
}


class Run:
    """A model in training, and the losses so far."""

    def __init__(self, change, untangle, seed=0, kept=None, frozen=None):
        torch.manual_seed(seed)
        self.change, self.model = change, Encoder()
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(40, 4, 5, generator=generator)
        self.y = (self.x[:, 0, 0] * self.x[:, 1, 1] > 0).long()
        config = TargetSpaceConfig(untangle=untangle, reference=ReferenceConfig(size=16))
        weights, state, moments = kept or (self.model.state_dict(), None, None)
        self.model.load_state_dict(weights)
        if frozen is not None:
            change.before(self.model, frozen)
        self.space = TargetSpace(self.model, self.x[:16], config, state=state)
        self.optimizer = torch.optim.Adam(self.space.parameters(), lr=0.003)
        if moments is not None:
            self.optimizer.load_state_dict(copy.deepcopy(moments))  # which it keeps

    def kept(self):
        return copy.deepcopy((self.model.state_dict(), self.space.state_dict(), self.optimizer.state_dict()))

    def go_back(self, kept):
        weights, state, moments = kept
        self.space.load_state_dict(state)
        self.model.load_state_dict(weights)
        self.optimizer.load_state_dict(copy.deepcopy(moments))  # which it keeps
        self.space.solve()

    def train(self, begin, end=STEPS):
        """The losses of these steps."""
        losses = []
        for step in range(begin, end):
            self.change.before(self.model, step)
            loss = functional.cross_entropy(self.model(self.x), self.y)
            self.optimizer.zero_grad()
            loss.backward()
            self.space.pullback()
            self.optimizer.step()
            self.space.solve()
            self.change.after(self.model, step)
            losses.append(float(loss.detach()))
        return losses


@pytest.mark.filterwarnings("ignore:The weights of .* were changed since the last optimizer step")
@pytest.mark.parametrize("untangle", [1, 3])
@pytest.mark.parametrize("name", CHANGES)
def test_training_goes_on_as_it_did(name, untangle):
    change = CHANGES[name]
    run = Run(change, untangle, frozen=0)
    states, losses = [], []
    for step in range(STEPS):
        states.append(run.kept())
        losses += run.train(step, step + 1)
    ended = copy.deepcopy(run.model.state_dict())
    for step in (1, 3, 4, 6):
        run.go_back(states[step])
        assert run.train(step) == losses[step:]
        assert_equal(run.model, ended)
    run.space.release()
    for step in (1, 3, 4, 6) if 0 not in change.within else (1, 3, 4):  # behind, optimizers have what has thawed
        for frozen in (None, step) if change.frozen else (None,):
            again = Run(change, untangle, 5, states[step], frozen)
            assert again.train(step) == losses[step:]
            assert_equal(again.model, ended)


def test_a_state_holds_what_frozen_layers_have():
    run = Run(CHANGES["recurrent"], 1)
    run.train(0, 4)
    weights, state, _ = run.kept()
    run.space.release()
    model = Encoder()
    TargetSpace(model, run.x[:16], state=state)
    for name, value in weights.items():
        if "norm" not in name:  # which is no part of the state
            assert torch.equal(model.state_dict()[name], value) == name.startswith("rnn"), name


def test_a_thawed_layer_trains_in_the_step_in_which_it_thaws():
    run = Run(Change(("head",), range(1, 3)), 1)
    run.train(0, 3)
    before = run.model.head.weight.detach().clone()
    run.train(3, 4)
    assert not torch.equal(run.model.head.weight, before)


def test_a_state_from_behind_a_release_or_ahead_of_a_solve_has_what_was_written():
    run = Run(CHANGES["written"], 1)
    run.train(0, 3)
    weights, state, moments = run.kept()
    run.space.release()
    expected = Run(CHANGES["written"], 1, 5, (weights, state, moments)).train(3)
    other = Run(CHANGES["written"], 1, 5)
    other.space.load_state_dict(state)
    for late in (run.space.state_dict(), other.space.state_dict()):
        assert Run(CHANGES["written"], 1, 5, (weights, late, moments)).train(3) == expected


@pytest.mark.parametrize("of_the_model", [False, True], ids=["empty", "of the model"])
def test_what_is_no_state_of_a_space_is_refused(of_the_model):
    model, x = nn.Linear(3, 2), torch.randn(9, 3)
    state = model.state_dict() if of_the_model else {}
    with pytest.raises(TargetSpaceError, match="another target space: found no targets in it, but"):
        TargetSpace(nn.Linear(3, 2), x, state=state)
    with pytest.raises(TargetSpaceError, match="another target space: found no targets in it, but"):
        TargetSpace(model, x).load_state_dict(state)
