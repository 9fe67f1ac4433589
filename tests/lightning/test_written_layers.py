"""A layer whose weight forward writes is said to be written, however often the model has run before."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.support.fits import Plain, build, data, fit
from ts_lightning import TargetSpace, TargetSpaceConfig, TargetSpaceError, TargetSpaceMixin


class Applied(nn.Module):
    """Its weight is applied by a function."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8) / 3)

    def forward(self, x):
        return functional.linear(x, self.weight)


class Sequence(nn.Module):
    """A layer on sequences."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        x = torch.stack([x, -x], 1)
        return self.layer(x, x, x)[0][:, 1] if isinstance(self.layer, nn.MultiheadAttention) else self.layer(x)[0][:, 1]


LAYERS = {
    "linear": lambda: nn.Linear(8, 8),
    "function": Applied,
    "lstm": lambda: Sequence(nn.LSTM(8, 8, batch_first=True)),
    "attention": lambda: Sequence(nn.MultiheadAttention(8, 2, batch_first=True)),
}
WRITES = {
    "in place": lambda p: p.clamp_(-0.2, 0.2),
    "data": lambda p: p.data.clamp_(-0.2, 0.2),
    "another": lambda p: setattr(p, "data", p.data.clamp(-0.2, 0.2)),
    "nothing": lambda p: p.clamp_(-9.0, 9.0),
}


class Written(Plain):
    def __init__(self, layer, write):
        super().__init__()
        self.net[2], self.write = LAYERS[layer](), WRITES[write]

    def forward(self, x):
        with torch.no_grad():
            self.write(next(self.net[2].parameters()))
        return super().forward(x)


class Target(TargetSpaceMixin, Written):
    pass


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("layer", LAYERS)
def test_it_is_named_in_a_fit_as_in_a_loop(layer, write):
    model, plain = (build(kind, layer=layer, write=write) for kind in (Target, Written))
    fit(model)
    for _ in range(2):
        space = TargetSpace(plain, data()[0])
        space.release()
        assert [left.reason for left in space.left] == ["written by forward"]
    assert model.target_space_engine.left == space.left


def test_one_that_the_user_names_is_refused_in_the_same_words():
    model = build(Target, layer="linear", write="in place")
    model.target_space = TargetSpaceConfig(layers=["net.2"])
    with pytest.raises(TargetSpaceError, match=r"layer 'net\.2': its weight is written by forward"):
        fit(model)


def test_a_refresh_says_nothing_of_gradients_and_leaves_them():
    class Differentiating(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.scale, self.last = nn.Linear(3, 5), nn.Parameter(torch.tensor(4.0)), nn.Linear(5, 2)

        def forward(self, x):
            with torch.no_grad():
                self.scale.clamp_(max=1.0)
            if not self.training:
                (x * self.scale).sum().backward()
            return self.last(self.first(x * self.scale).tanh())

    x, model = data()[0], Differentiating()
    space = TargetSpace(model, x)
    model.scale.grad = torch.tensor(7.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        space.refresh(x[:40])
    assert model.scale.grad == 7
