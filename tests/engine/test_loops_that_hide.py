"""Loops through what values cannot be followed through: TorchScript, ``torch.vmap``, NumPy and Python's numbers.

Their layers were solved with the weights of the step before in the place of their targets: each solve from the same
targets gave other weights, gradients were wrong, and nothing was said.
"""

import copy

import pytest
import torch
from torch import nn

from tests.support.exactness import check_differences, gradients, random_targets
from ts_lightning import TargetSpace, TargetSpaceConfig
from ts_lightning.layers.loop import loop_of


@torch.jit.script
def mixed(z, h):
    return 0.5 * torch.tanh(z) + 0.5 * h


def in_numpy(z, h):
    return torch.from_numpy(mixed(z, h).detach().numpy() + 0.0)


def in_python(z, h):
    return torch.tensor(mixed(z, h).tolist()).to(z)


def in_vmap(z, h):
    return torch.vmap(lambda a, b: 0.5 * torch.tanh(a) + 0.5 * b)(z, h)


def checked(z, h):
    if float(z.detach().abs().max()) > 2.5:
        raise ValueError
    return mixed(z, h)


class Hidden(nn.Module):
    """A cell whose next state ``then`` makes, where no value is followed."""

    def __init__(self, then, joint=True):
        super().__init__()
        self.then, self.joint, self.readout = then, joint, nn.Linear(8, 2)
        self.cell = nn.Linear(11, 8) if joint else nn.Linear(8, 8)
        self.inputs = nn.Identity() if joint else nn.Linear(3, 8)

    def forward(self, x):
        h = x.new_zeros(len(x), 8)
        for step in x.unbind(1):
            z = self.cell(torch.cat([step, h], 1)) if self.joint else self.inputs(step) + self.cell(h)
            h = self.then(z, h)
        return self.readout(torch.tanh(z) + h)


class Behind(nn.Module):
    """A cell in the open, and behind it layers at all steps, which are given what ``then`` makes, or at one step."""

    def __init__(self, once=False):
        super().__init__()
        self.once, self.cell, self.side, self.readout = once, nn.LSTMCell(3, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        state, found = None, []
        for t, step in enumerate(x.unbind(1)):
            state = self.cell(step, state)
            if t == 1 or not self.once:
                found.append(self.readout(mixed(self.side(mixed(state[0], state[0])), state[0])))
        return torch.stack(found, 1)


class Tokens(nn.Module):
    """A decoder that is given its own choice, as numbers of Python, by a readout without another way back."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder, self.readout = nn.GRUCell(3, 8), nn.Linear(12, 8), nn.Linear(8, 4)

    def forward(self, x):
        h, given, found = None, x.new_zeros(len(x), 4), []
        for step in x.unbind(1):
            h = self.encoder(step, h)
        for _ in range(3):
            found.append(self.readout(torch.tanh(self.decoder(torch.cat([h, given], 1)))))
            given = torch.eye(4).to(x)[found[-1].argmax(1).tolist()]
        return torch.stack(found, 1)


#: each with the layers that recur, and whether its gradient is that of its loss
HIDDEN = {
    "TorchScript": (lambda: Hidden(mixed), {"cell"}, True),
    "TorchScript, two layers": (lambda: Hidden(mixed, joint=False), {"cell"}, True),
    "vmap": (lambda: Hidden(in_vmap), {"cell"}, True),
    "NumPy": (lambda: Hidden(in_numpy), {"cell"}, False),
    "NumPy, two layers": (lambda: Hidden(in_numpy, joint=False), {"cell"}, False),
    "checked": (lambda: Hidden(checked), {"cell"}, True),
    "numbers": (lambda: Hidden(in_python), {"cell"}, False),
    "tokens": (Tokens, {"encoder", "decoder", "readout"}, False),
    "behind": (Behind, {"cell"}, True),
    "behind, once": (lambda: Behind(once=True), {"cell"}, True),
}


def made(case, **settings):
    torch.manual_seed(0)
    x = torch.randn(40, 4, 3, dtype=torch.float64)
    model = HIDDEN[case][0]().double()
    return model, x, TargetSpace(model, x, TargetSpaceConfig(**settings))


def weights(space):
    return torch.cat([p.detach().flatten() for layer in space.layers for p in layer.parameters])


@pytest.mark.parametrize("case", HIDDEN)
def test_the_same_targets_give_the_same_weights_and_gradients_predict_differences(case):
    """Of "checked", a forward that takes no random weights, loops are found with its own."""
    model, _, space = made(case, ridge=0.3, step_scale=1.0)
    assert space.left == []
    assert {layer.name for layer in space.layers if loop_of(layer) and loop_of(layer).recurs} == HIDDEN[case][1]
    if case == "checked":
        return
    random_targets(space, torch.Generator().manual_seed(0))
    before = weights(space)
    space.solve()
    assert torch.equal(weights(space), before)
    fresh = torch.randn(30, 4, 3, dtype=torch.float64)

    def loss(model):
        return model(fresh).square().sum()

    found = gradients(space, model, loss)
    if HIDDEN[case][2]:
        check_differences(space, model, loss, found, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("case", HIDDEN)
def test_a_state_goes_on_bit_for_bit(case):
    model, x, space = made(case)

    def train(model, space):
        optimizer = torch.optim.SGD(space.parameters(), lr=0.001)
        for _ in range(2):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            space.pullback()
            optimizer.step()
            space.solve()

    train(model, space)
    other = HIDDEN[case][0]().double()
    other.load_state_dict(model.state_dict())
    resumed = TargetSpace(other, x, state=copy.deepcopy(space.state_dict()))
    train(model, space)
    train(other, resumed)
    assert torch.equal(weights(resumed), weights(space))


def test_what_is_behind_a_loop_is_solved_from_what_it_passes_on():
    _, _, space = made("behind")
    stages = {layer.name: layer.stage for layer in space.layers}
    assert stages["cell"] < stages["side"] < stages["readout"]
