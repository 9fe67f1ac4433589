"""Layers that a forward calls without gradients, in a transform or with other weights, and plainly as well."""

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from tests.engine.test_call_sites import Recomputed
from tests.support.exactness import check_differences, gradients, random_targets
from tests.support.fits import assert_equal
from tests.support.points import PAIRS, Base, fit
from ts_lightning import TargetSpace, TargetSpaceConfig, TargetSpaceError

CONFIG = TargetSpaceConfig(ridge=0.3, step_scale=1.0)
OFF, OTHER = "called where gradients are off", "called with other weights than its own"


def off(m, x):
    with torch.no_grad():
        return m.net(x)


def in_inference_mode(m, x):
    with torch.inference_mode():
        return m.net(x)


def choice(m, x):
    with torch.no_grad():
        return torch.distributions.Categorical(logits=m.net(x)).sample()


def mapped(m, x):
    return torch.vmap(m.net)(x)


def averaged(m, x):
    weights = {name: 0.9 * p.detach() for name, p in m.net.named_parameters()}
    return functional_call(m.net, weights, (x,))


def averaged_off(m, x):
    with torch.no_grad():
        return averaged(m, x)


@torch.enable_grad()
def perturbed(m, x):
    z = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(m.net(z).square().sum(), z)
    return m.net(x + 0.1 * gradient)


class Net(nn.Module):
    """A network that is called on the side ahead of its plain call, behind it, or nowhere."""

    def __init__(self, side=None, *, ahead=True, behind=True, net=None):
        super().__init__()
        self.net = net or nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 2))
        self.side, self.ahead, self.behind = side, ahead, behind

    def forward(self, x):
        if self.side and self.ahead:
            self.side(self, x.flip(0) + 0.1)
        out = self.net(x)
        if self.side and self.behind:
            self.side(self, x.flip(0) - 0.1)
        return out


def net(**arguments):
    torch.manual_seed(0)
    return Net(**arguments).double()


def points(seed=0):
    return torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


SIDES = [off, in_inference_mode, choice, mapped, averaged, averaged_off]


WHERE = {"behind": {"ahead": False}, "ahead": {"behind": False}, "both": {}}
CASES = [(side, where) for side in SIDES for where in WHERE] + [
    (perturbed, "behind")
]  # whose first call is a plain one


@pytest.mark.parametrize(("side", "where"), CASES, ids=lambda part: getattr(part, "__name__", part))
def test_weights_and_gradients_are_those_of_the_plain_call(side, where):
    model, plain = net(side=side, **WHERE[where]), net()
    space, other = (TargetSpace(m, points(), CONFIG) for m in (model, plain))
    assert space.left == []
    for each in (space, other):
        random_targets(each, torch.Generator().manual_seed(0))
    assert_equal(model.state_dict(), plain.state_dict())

    def loss(m):
        torch.manual_seed(1)
        return m(points(1)).square().sum()

    found, expected = gradients(space, model, loss), gradients(other, plain, loss)
    assert_equal(found, expected)
    check_differences(space, model, loss, found, torch.Generator().manual_seed(0))


def check_it_goes_on(made, config=None):
    """Training goes on bit for bit from the states of the model and of the space."""

    def trained(model, space):
        optimizer = torch.optim.SGD(space.parameters(), 0.01)
        for _ in range(4):
            optimizer.zero_grad()
            model(points(1)).square().sum().backward()
            space.pullback()
            optimizer.step()
            space.solve()

    model, other = made(), made()
    space = TargetSpace(model, points(), config)
    trained(model, space)
    other.load_state_dict(model.state_dict())
    resumed = TargetSpace(other, points(), config, state=space.state_dict())
    for each in ((model, space), (other, resumed)):
        trained(*each)
    assert_equal(model.state_dict(), other.state_dict())


@pytest.mark.parametrize("settings", [{"untangle": 4}, {"cascade_gradient": False}, {"method": "ocu"}])
def test_it_goes_with_other_settings_and_goes_on_bit_for_bit(settings):
    check_it_goes_on(lambda: net(side=off), TargetSpaceConfig(**settings))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.attention = nn.LSTM(3, 4), nn.MultiheadAttention(4, 2)

    def forward(self, x):
        h, _ = self.rnn(x.view(5, 4, 3))
        return self.attention(h, h, h)[0]


@pytest.mark.parametrize("side", [off, averaged_off], ids=lambda side: side.__name__)
def test_recurrent_modules_and_attentions(side):
    model = net(side=side, net=Recurrent())
    space = TargetSpace(model, points(), CONFIG)
    assert space.left == []
    random_targets(space, torch.Generator().manual_seed(0))

    def loss(m):
        return m(points(1)).square().sum()

    check_differences(space, model, loss, gradients(space, model, loss), torch.Generator().manual_seed(0))


class Mined(Net):
    """The samples that are trained on are chosen by the network."""

    def forward(self, x):
        with torch.no_grad():
            hardest = self.net(x).norm(dim=1).topk(10).indices
        return self.net(x[hardest])


class Conditioned(Net):
    """The network is given what it predicts itself."""

    def forward(self, x):
        with torch.no_grad():
            first = self.net(x)
        return self.net(x + functional.pad(first, (0, 1)))


class Averaged(Net):
    """The network is given what an average of it predicts."""

    def forward(self, x):
        return self.net(x + functional.pad(averaged(self, x), (0, 1)))


class Reversible(Net):
    """Gradients go through a call in an ``autograd.Function``, whose backward runs the network again."""

    def forward(self, x):
        return self.net(x) + Recomputed.apply(x, self.net)


@pytest.mark.parametrize(("kind", "reason"), [(Mined, OFF), (Conditioned, OFF), (Averaged, OTHER), (Reversible, OFF)])
def test_where_a_solve_depends_on_such_a_call_the_layer_is_left_and_refused(kind, reason):
    class Behind(nn.Sequential):
        def __init__(self):
            super().__init__(kind(), nn.Linear(2, 2))

    space = TargetSpace(Behind().double(), points(), CONFIG)
    assert {left.reason for left in space.left} == {reason}
    assert set(space.targets) == {"1"}
    with pytest.raises(TargetSpaceError, match=rf"layer '0.net.0' is {reason}.*Add '0.net.0' to exclude"):
        TargetSpace(Behind().double(), points(), TargetSpaceConfig(layers=["0.net.0"]))


def test_derivatives_by_a_transform_in_a_transform_are_refused_and_do_not_fail():
    def side(m, x):
        return torch.vmap(torch.func.hessian(lambda sample: m.net(sample).sum()))(x)

    space = TargetSpace(net(side=side), points(), CONFIG)
    assert space.left == []

    class Alone(Net):
        def forward(self, x):
            return side(self, x)

    with pytest.raises(TargetSpaceError, match=r"layer 'net.0' is called in a transform of torch.func"):
        TargetSpace(Alone().double(), points(), CONFIG)


def test_a_training_step_with_pseudo_labels_is_solved_as_its_forward():
    class Plain(Base):
        forward = LightningModule.forward  # none of its own

        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))

        def training_step(self, batch, batch_idx):
            x, y = batch
            with torch.no_grad():
                labels = self.net(x + 0.1).softmax(1)
            out = self.net(x)
            return functional.cross_entropy(out, y) + functional.cross_entropy(out, labels)

    class WithForward(Plain):
        def forward(self, x):
            return self.net(x)

    models = []
    for kind in (Plain, WithForward):
        torch.manual_seed(0)
        models.append(kind())
        fit(models[-1], PAIRS)
    assert_equal(models[0].state_dict(), models[1].state_dict())
