"""Autocast that a model enters by itself, as one that a library has prepared, reaches neither solve nor pull-back."""

import functools

import pytest
import torch
from torch import nn

from tests.support.dense_solve import CONFIG, RIDGE, matrix
from ts_lightning import TargetSpace

BF16 = torch.bfloat16


class Mixing(nn.Module):
    """A product that is not solved, as those of an attention."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mixing", torch.randn(16, 16) / 4)

    def forward(self, x):
        return x @ self.mixing


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), Mixing(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 2))


def inputs():
    return torch.randn(40, 3, generator=torch.Generator().manual_seed(1))


class Within(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x):
        with torch.autocast("cpu", dtype=BF16):
            return self.net(x).float()


class Decorated(Within):
    @torch.autocast("cpu", dtype=BF16)
    def forward(self, x):
        return self.net(x).float()


class OldName(Within):
    def forward(self, x):
        with torch.amp.autocast_mode.autocast("cpu", BF16):
            return self.net(x).float()


class Plain(Within):
    def forward(self, x):
        return self.net(x)


def prepared():
    """As accelerate does it: the forward of the instance."""
    model = Plain()
    model.forward = functools.partial(torch.autocast("cpu", dtype=BF16)(Plain.forward), model)
    return model


MODELS = {"within": Within, "decorated": Decorated, "old name": OldName, "prepared": prepared}


def trained(model, config=None, steps=4):
    x = inputs()
    space = TargetSpace(model, x, config)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    space.attach(optimizer)
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", enabled=False):
            nn.functional.cross_entropy(model(x).float(), (x[:, 0] > 0).long()).backward()
        optimizer.step()
    return space


@pytest.mark.parametrize("kind", MODELS)
def test_weights_are_solved_in_full_precision(kind):
    model = MODELS[kind]()
    space = trained(model)
    assert model(inputs()).grad_fn is not None
    plain = Plain()
    plain.load_state_dict(model.state_dict())
    TargetSpace(plain, inputs(), state=space.state_dict())
    assert all(map(torch.equal, plain.parameters(), model.parameters()))


@pytest.mark.parametrize("kind", MODELS)
def test_training_has_its_autocast(kind):
    model, seen = MODELS[kind](), []
    model.net[3].register_forward_hook(lambda module, given, found: seen.append(found.dtype))
    space = trained(model, steps=1)
    assert seen[-1] == BF16
    space.solve()
    model(inputs())
    assert seen[-1] == BF16


def test_what_is_of_another_precision_keeps_autocast_and_solves_have_none():
    """A backbone in bfloat16 beside a head in float32, which nothing but autocast joins."""
    model = Within()
    model.net[0].to(BF16).requires_grad_(False)
    found = []
    with pytest.warns(UserWarning, match="because they are frozen"):
        space = trained(model, CONFIG)
    handle = model.net[3].register_forward_pre_hook(lambda module, given: found.append(given[0].detach().double()))
    model(inputs())
    handle.remove()
    a = torch.cat([found[0], torch.ones(40, 1, dtype=torch.float64)], 1)
    target = space.targets["net.3"].detach().double()
    dense = torch.linalg.solve(a.mT @ a + RIDGE * torch.eye(17, dtype=torch.float64), a.mT @ target)
    torch.testing.assert_close(matrix(model.net[3]).detach().double(), dense, rtol=1e-4, atol=1e-5)


class ByHand(nn.Module):
    """Casts by hand within autocast, which joins what it made with weights in float32."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(3, 16), nn.Linear(16, 2)
        self.weight = nn.Parameter(torch.randn(16, 16) / 4)
        self.register_buffer("mixing", torch.randn(16, 16) / 4)
        self.frozen = nn.Linear(16, 16).requires_grad_(False)
        self.rnn = nn.LSTM(16, 16, batch_first=True)

    def forward(self, x):
        with torch.autocast("cpu", dtype=BF16):
            return self.last(self.middle(self.first(x).to(BF16))).float()

    def middle(self, hidden):
        raise NotImplementedError


class Applied(ByHand):
    def middle(self, hidden):
        return nn.functional.linear(hidden, self.weight)


class Used(ByHand):
    def middle(self, hidden):
        return hidden @ self.weight.softmax(1)


class Constant(ByHand):
    def middle(self, hidden):
        return hidden @ self.mixing


class Frozen(ByHand):
    def middle(self, hidden):
        return self.frozen(hidden)


class Recurrent(ByHand):
    def middle(self, hidden):
        return self.rnn(hidden[:, None])[0][:, -1].to(BF16)


class Attending(ByHand):
    def middle(self, hidden):
        query, value = hidden.view(-1, 4, 4), self.frozen(hidden).view(-1, 4, 4)
        return nn.functional.scaled_dot_product_attention(query, value, value).flatten(1)


class Asking(ByHand):
    def middle(self, hidden):
        assert torch.is_autocast_enabled("cpu")
        return self.frozen(hidden.to(torch.get_autocast_dtype("cpu")))


@pytest.mark.filterwarnings("ignore:Left out of target space because they are frozen")
@pytest.mark.parametrize("kind", [Applied, Used, Constant, Frozen, Recurrent, Attending, Asking])
def test_what_a_forward_casts_by_hand_meets_weights_in_float32(kind):
    model = kind()
    space = trained(model, CONFIG)
    rows = []
    handle = model.first.register_forward_pre_hook(lambda module, given: rows.append(given[0].double()))
    assert torch.isfinite(model(inputs())).all()
    handle.remove()
    a = torch.cat([rows[0], torch.ones(40, 1, dtype=torch.float64)], 1)
    target = space.targets["first"].detach().double()
    dense = torch.linalg.solve(a.mT @ a + RIDGE * torch.eye(4, dtype=torch.float64), a.mT @ target)
    torch.testing.assert_close(matrix(model.first).detach().double(), dense, rtol=1e-4, atol=1e-5)


def test_a_frozen_model_of_low_precision_keeps_the_autocast_that_joins_it():
    class Low(Within):
        def forward(self, x):
            with torch.autocast("cpu", dtype=BF16):
                return self.net(x.float()).float()

    model = Low().to(BF16)
    model.net[0].requires_grad_(False)
    with pytest.warns(UserWarning, match="because they are frozen"):
        trained(model)
    assert torch.isfinite(model(inputs())).all()
