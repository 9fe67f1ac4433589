"""TargetSpace in a plain loop: training, steps out of order, given targets."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.support.fits import assert_equal
from tests.support.nets import Conv, Dense, dense, moons
from ts_lightning import ReferenceConfig, TargetSpace, TargetSpaceConfig, TargetSpaceError
from ts_lightning.engine.running.random_numbers import SameRandomNumbers

INITS = ("projected", "normalised")


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("method", ["scu", "ocu"])
@pytest.mark.parametrize("scale", ["absolute", "variance"])
def test_the_loop_of_five_lines_trains(init, method, scale):
    x, y = moons()
    model = dense()
    config = TargetSpaceConfig(ridge=0.1, ridge_scale=scale, init=init, method=method)
    space = TargetSpace(model, x[:100], config)
    optimizer = torch.optim.Adam(space.parameters(), lr=0.02)
    for _ in range(100):
        loss = functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        space.pullback()
        optimizer.step()
        space.solve()
    assert float((model(x).argmax(1) == y).float().mean()) > 0.95


def test_a_tuple_and_a_function_are_references_too():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, a, b):
            return self.layer(torch.cat([a, b], 1))

    x, _ = moons()
    weights = []
    model = Two()
    for reference in ((x, x), [x, x], lambda: model(x, b=x)):
        TargetSpace(model, reference)
        weights.append(model.layer.weight.clone())
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])


def test_parameters_are_targets_and_what_is_not_solved():
    model = dense(norm=True)
    space = TargetSpace(model, moons()[0])
    named = {id(p): n for n, p in model.named_parameters()}
    found = list(space.parameters())
    assert [id(p) for p in found[:4]] == [id(t) for t in space.targets.values()]
    assert list(space.targets) == ["hidden.0", "hidden.1", "hidden.2", "readout"]
    assert [named[id(p)] for p in found[4:]] == [n for n in named.values() if n.startswith("norms")]
    assert not any(id(t) in named for t in space.targets.values())


def test_targets_have_the_shape_of_their_layers_output():
    model, x = Conv(2, 2, 4, 3, kernel_size=3, stride=2, groups=2), torch.ones(5, 2, 7, 6)
    space = TargetSpace(model, x, TargetSpaceConfig(reference=ReferenceConfig(rows="all")))
    shapes = {name: tuple(t.shape) for name, t in space.targets.items()}
    assert shapes == {"first": (5, 4, 3, 2), "second": (5, 4, 3, 2), "readout": (5, 3)}
    space.release()
    space = TargetSpace(model, x, TargetSpaceConfig(reference=ReferenceConfig(rows=20)))
    assert {n: tuple(t.shape) for n, t in space.targets.items()} == {
        "first": (20, 4),
        "second": (20, 4),
        "readout": (5, 3),
    }


def test_pullback_clears_the_weights_gradients_and_fills_the_targets():
    x, y = moons()
    model = dense()
    space = TargetSpace(model, x)
    functional.cross_entropy(model(x), y).backward()
    assert all(t.grad is None for t in space.targets.values())
    space.pullback()
    assert all(p.grad is None for p in model.parameters())
    assert all(t.grad is not None and t.grad.any() for t in space.targets.values())


def test_stale_after_a_change_and_after_a_pullback():
    x, y = moons()
    model = dense(norm=True)
    space = TargetSpace(model, x)
    assert not space.stale
    for change in (space.targets["hidden.1"], model.norms[0].weight):
        with torch.no_grad():
            change.add_(0.1)
        assert space.stale
        space.solve()
        assert not space.stale
    functional.cross_entropy(model(x), y).backward()
    space.pullback()
    assert space.stale


def test_given_targets_stand_at_their_own_rows():
    model, x = Packing(), torch.randn(20, 9, 2)
    config = TargetSpaceConfig(reference=ReferenceConfig(rows=60))
    torch.manual_seed(0)
    state = TargetSpace(model, x, config).state_dict()
    weights = copy.deepcopy(model.state_dict())
    torch.manual_seed(1)
    assert not torch.equal(TargetSpace(model, x, config).state_dict()["rows"]["rnn.l0"], state["rows"]["rnn.l0"])
    again = TargetSpace(model, x, config, state=state).state_dict()
    assert torch.equal(again["rows"]["rnn.l0"], state["rows"]["rnn.l0"])
    assert_equal(model.state_dict(), weights)
    with pytest.raises(TargetSpaceError, match=r"'rnn\.l0' has given targets at a sample of its rows; method='ocu'"):
        TargetSpace(model, x, TargetSpaceConfig(method="ocu"), state=state)
    with pytest.raises(TargetSpaceError, match=r"'rnn\.l0' has given targets .* places; found"):
        TargetSpace(model, torch.randn(21, 9, 2), config, state=state)


class Packing(nn.Module):
    """A GRU on sequences of 1 to 9 steps."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(2, 3, batch_first=True)

    def forward(self, x):
        """Outputs at all steps, packed."""
        lengths = torch.arange(len(x)) % 9 + 1
        return self.rnn(nn.utils.rnn.pack_padded_sequence(x, lengths, True, enforce_sorted=False))[0].data


def test_given_targets_are_taken_over_and_checked():
    x, _ = moons()
    model = dense()
    first = TargetSpace(model, x)
    with torch.no_grad():
        first.targets["hidden.1"].mul_(2)
    first.solve()
    weights = copy.deepcopy(model.state_dict())
    first.release()
    second = TargetSpace(model, x, state=first.state_dict())
    assert_equal(second.targets, first.targets)
    assert not any(second.targets[name] is target for name, target in first.targets.items())
    assert_equal(model.state_dict(), weights)
    second.release()
    with pytest.raises(TargetSpaceError, match=r"'hidden\.0' has given targets .* at \(200,\) places; found \(150,\)"):
        TargetSpace(model, x[:150], state=first.state_dict())
    with pytest.raises(
        TargetSpaceError, match=r"'hidden\.0' has given targets of shape \(200, 8\); expected \(200, 9\)"
    ):
        TargetSpace(Dense(2, 9, 3, 2), x, state=first.state_dict())
    with pytest.raises(TargetSpaceError, match=r"of other layers.*: with targets but not chosen: readout\."):
        TargetSpace(model, x, TargetSpaceConfig(exclude=["readout"]), state=first.state_dict())


def test_a_model_that_changes_its_input_does_not_change_the_reference():
    class Scaling(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x):
            return self.layer(x.div_(2))

    x, _ = moons()
    kept = x.clone()
    model = Scaling()
    space = TargetSpace(model, x)
    first = model.layer.weight.clone()
    space.solve()
    assert torch.equal(x, kept)
    assert torch.equal(model.layer.weight, first)


def test_a_nan_in_the_targets_names_the_layer_and_reaches_no_weight():
    model = dense()
    space = TargetSpace(model, moons()[0])
    kept = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        space.targets["hidden.1"][3, 2] = float("nan")
    with pytest.raises(TargetSpaceError, match=r"layer 'hidden\.1': its targets hold a NaN"):
        space.solve()
    assert_equal(model.state_dict(), kept)


def test_the_state_dict_is_that_of_the_model():
    plain, model = dense(norm=True), dense(norm=True)
    TargetSpace(model, moons()[0])
    assert list(model.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(model.state_dict(), strict=True)


class Viewing(nn.Module):
    """Flattens images by a view, which the layout of its input decides about."""

    def __init__(self):
        super().__init__()
        self.conv, self.readout = nn.Conv2d(3, 4, 3), nn.Linear(36, 2)

    def forward(self, x):
        x = self.conv(x)
        return self.readout(x.view(x.size(0), -1))


def test_a_view_of_images():
    torch.manual_seed(0)
    model, x = Viewing(), torch.randn(60, 3, 5, 5)
    space = TargetSpace(model, x)
    model(x).square().mean().backward()
    space.pullback()
    assert all(target.grad.abs().sum() > 0 for target in space.targets.values())


def test_gradients_that_are_alike_have_memory_of_their_own():
    class Shifted(nn.Module):
        """Two parameters that only the reference pass, in which nothing is in training mode, has a use for."""

        def __init__(self):
            super().__init__()
            self.p, self.q = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            return self.layer(x if self.training else x + (self.p + self.q))

    torch.manual_seed(0)
    model, x = Shifted().double(), torch.randn(8, 3, dtype=torch.float64)
    space = TargetSpace(model, x)
    model(x).square().sum().backward()
    space.pullback()
    assert torch.equal(model.p.grad, model.q.grad)
    assert model.p.grad.data_ptr() != model.q.grad.data_ptr()


@pytest.mark.parametrize("changed_only", [False, True])
def test_a_solve_that_has_nothing_to_write(changed_only):
    """All layers are frozen; or two optimizers train, and none of the weights changed, as at a rate of 0."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    space = TargetSpace(model, torch.randn(20, 3))
    before = [p.detach().clone() for p in model.parameters()]
    if changed_only:
        parameters = list(space.parameters())
        optimizers = [torch.optim.SGD([p], lr=0.0) for p in parameters[:2]]
        for optimizer in optimizers:
            space.attach(optimizer)
    else:
        model.requires_grad_(False)
    space.solve()
    assert all(torch.equal(p, value) for p, value in zip(model.parameters(), before, strict=True))


def test_the_first_registered_parameter_says_on_which_device_random_numbers_are_the_same(monkeypatch):
    """A module that is held in a list, elsewhere, says nothing."""
    found = []
    numbers = SameRandomNumbers.__call__
    monkeypatch.setattr(
        SameRandomNumbers, "__call__", lambda self, device: found.append(device) or numbers(self, device)
    )
    model = nn.Sequential(nn.Linear(3, 2))
    model.teachers = [nn.Linear(3, 2, device="meta")]
    TargetSpace(model, torch.randn(20, 3))
    assert {device.type for device in found} == {"cpu"}


@pytest.mark.parametrize("given", [{"ridge": 2}, True, 2.0])
def test_settings_of_another_type_are_refused_by_name(given):
    with pytest.raises(TypeError, match="config: expected a TargetSpaceConfig or None, found"):
        TargetSpace(nn.Linear(3, 2), torch.randn(9, 3), given)


@pytest.mark.parametrize(
    ("given", "found"),
    [(nn.Linear, "the class Linear"), (torch.zeros(2, 3), "a Tensor"), ("net", "a str"), (None, "a NoneType")],
)
def test_what_is_no_module_is_refused_by_name(given, found):
    """The arguments in another order, or a class that nobody made: each had an error of Python's."""
    with pytest.raises(TypeError, match=f"TargetSpace: found {found} as the model; expected a module"):
        TargetSpace(given, torch.randn(9, 3))
