"""Parts of parameters that cannot be layers: the parameter stays in weight space as a whole, with the reason."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.support.exactness import check_differences, gradients
from ts_lightning import TargetSpace, TargetSpaceConfig


class Model(nn.Module):
    """A weight of (2, 4, 4) and a bias (2, 4) between two layers, applied by ``run(model, x)``."""

    def __init__(self, run):
        super().__init__()
        self.run = run
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)
        self.w, self.b = nn.Parameter(torch.randn(2, 4, 4) / 2), nn.Parameter(torch.zeros(2, 4))

    def forward(self, x):
        return self.last(torch.tanh(self.run(self, torch.tanh(self.first(x)))))


def loss_on(x):
    return lambda model: model(x[:7]).square().sum()


def check_gradients(space, model, x):
    found = gradients(space, model, loss_on(x))
    check_differences(space, model, loss_on(x), found, torch.Generator().manual_seed(0))


def both(m, x, run=torch.matmul):
    return torch.tanh(run(x, m.w[0])) @ m.w[1]


def written(m, x):
    m.w[0].data.clamp_(-9, 9)
    return both(m, x)


def chosen(m, x):
    """Each sample has an expert, by what the weights give."""
    found, where = torch.zeros_like(x), x[:, 0] > 0
    found[where], found[~where] = x[where] @ m.w[0], x[~where] @ m.w[1]
    return found


LEFT = {
    "one of them": (lambda m, x: x @ m.w[0], "only a part of it is applied"),
    "a remainder": (lambda m, x: torch.tanh(x @ m.w[0]) @ m.w[1, :, :3] @ x.new_ones(3, 4), None),
    "overlapping": (lambda m, x: both(m, x) + x @ m.w.view(8, 4)[2:6], "applied in parts that overlap"),
    "and as a whole": (lambda m, x: both(m, x) + torch.einsum("bi,kio->bo", x, m.w), "used by einsum"),
    "and as layers side by side": (lambda m, x: both(m, x) + (x @ m.w).sum(0), "applied in several ways"),
    "a penalty on it": (lambda m, x: both(m, x) + m.w.square().mean(), "used by square"),
    "a penalty on one": (lambda m, x: both(m, x) + m.w[1].abs().mean(), "used by abs"),
    "and as a whole layer": (
        lambda m, x: x @ m.w[0] + functional.linear(x, m.w.view(8, 4))[:, :4],
        "applied in several ways",
    ),
    "one given to a module": (lambda m, x: both(m, x) + m.last(m.w[1]).mean(), "used by Linear"),
    "one transposed, too": (lambda m, x: both(m, x) + x @ m.w[1].T, "applied in several ways"),
    "one scaled otherwise, too": (lambda m, x: both(m, x) + x @ (m.w[1] * 2), "applied in several ways"),
    "a product of parts": (lambda m, x: x @ (m.w[0] @ m.w[1]), "used by matmul"),
    "by indices": (lambda m, x: x @ m.w[torch.tensor(0)] + x @ m.w[torch.tensor(1)], "used by getitem"),
    "with zeros": (lambda m, x: torch.tanh(x @ (m.w[0] * 0)) @ m.w[1], "multiplied by a mask with zeros"),
    "where rows follow": (chosen, "its rows depend on weights"),
}


@pytest.mark.parametrize("name", LEFT)
def test_it_stays_as_a_whole_and_the_rest_is_exact(name):
    run, why = LEFT[name]
    torch.manual_seed(0)
    model, x = Model(run).double(), torch.randn(20, 3, dtype=torch.float64)
    space = TargetSpace(model, x, TargetSpaceConfig(step_scale=1.0, init="normalised"))
    assert [*space.targets] == ["first", "last"]
    if why is not None:
        assert ("", "Model", why) in space.left or ("w", "Model", why) in space.left
    assert any(p is model.w for p in space.parameters())
    check_gradients(space, model, x)


def test_a_write_to_a_part_is_seen():
    torch.manual_seed(0)
    space = TargetSpace(Model(written).double(), torch.randn(20, 3, dtype=torch.float64))
    assert [*space.targets] == ["first", "last"]


#: what is added to parts, and whether it is solved with them
BIASES = {
    "its parts": (lambda m, x: functional.linear(functional.linear(x, m.w[0], m.b[0]), m.w[1], m.b[1]), True),
    "crosswise": (lambda m, x: functional.linear(functional.linear(x, m.w[0], m.b[1]), m.w[1], m.b[0]), True),
    "one of them": (lambda m, x: functional.linear(functional.linear(x, m.w[0], m.b[0]), m.w[1]), False),
    "one twice": (lambda m, x: functional.linear(functional.linear(x, m.w[0], m.b[0]), m.w[1], m.b[0]), False),
    "read beside": (
        lambda m, x: functional.linear(functional.linear(x, m.w[0], m.b[0]), m.w[1], m.b[1]) + m.b.mean(),
        False,
    ),
    "scaled": (lambda m, x: functional.linear(functional.linear(x, m.w[0], m.b[0] * 2), m.w[1], m.b[1]), False),
}


@pytest.mark.parametrize("name", BIASES)
def test_biases_are_solved_where_they_are_the_parts_of_one(name):
    run, solved = BIASES[name]
    torch.manual_seed(0)
    model, x = Model(run).double(), torch.randn(20, 3, dtype=torch.float64)
    space = TargetSpace(model, x, TargetSpaceConfig(step_scale=1.0, init="normalised"))
    assert {*space.targets} == {"first", "w.0", "w.1", "last"}
    assert any(p is model.b for p in space.parameters()) is not solved
    check_gradients(space, model, x)


def test_a_weight_that_is_not_contiguous_stays():
    torch.manual_seed(0)
    model, x = Model(both).double(), torch.randn(20, 3, dtype=torch.float64)
    model.w = nn.Parameter(model.w.detach().mT.contiguous().mT)
    assert ("", "Model", "applied in parts, and not contiguous") in TargetSpace(model, x).left


def test_biases_that_are_not_contiguous_stay_as_they_are():
    """A start from the weights read other numbers of them."""
    torch.manual_seed(0)
    model, x = Model(BIASES["its parts"][0]).double(), torch.randn(20, 3, dtype=torch.float64)
    model.b = nn.Parameter(torch.randn(4, 2, dtype=torch.float64).T)
    before = model(x).detach()
    space = TargetSpace(model, x, TargetSpaceConfig(init="weights"))
    assert {*space.targets} == {"first", "w.0", "w.1", "last"}
    torch.testing.assert_close(model(x), before)
    assert any(p is model.b for p in space.parameters())


@pytest.mark.parametrize("where", [torch.no_grad, torch.inference_mode])
def test_parts_that_are_applied_without_gradients_too_are_solved(where):
    torch.manual_seed(0)

    def run(m, x):
        with where():
            m.seen = both(m, x)
        return both(m, x)

    model = Model(run).double()
    space = TargetSpace(model, torch.randn(20, 3, dtype=torch.float64))
    assert {*space.targets} == {"first", "w.0", "w.1", "last"}


def constant(m, x, weight):
    with torch.no_grad():
        fixed = weight(m)
    return both(m, x) + x @ fixed


@pytest.mark.parametrize("weight", [lambda m: m.w[1], lambda m: m.w[1].T, lambda m: m.w.view(8, 4)[4:]])
def test_views_that_are_made_without_gradients_are_constants_as_detached_ones(weight):
    """They were uses of the layer, through which gradients went in the reference pass."""
    x, found = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), []
    for run in (lambda m, h: constant(m, h, weight), lambda m, h: both(m, h) + h @ weight(m).detach()):
        torch.manual_seed(0)
        model = Model(run).double()
        space = TargetSpace(model, x, TargetSpaceConfig(step_scale=1.0, init="normalised"))
        assert [*space.targets] == ["first", "last"]
        found.append(gradients(space, model, loss_on(x)))
    torch.testing.assert_close(*found)


def logged(m, h):
    with torch.no_grad():
        m.seen = functional.linear(h, m.last.weight[:1])
    return h


#: what a forward does with a slice of the weight of a module that it calls
BESIDE_A_MODULE = {
    "without gradients": logged,
    "with zeros": lambda m, h: h + functional.linear(h[:, :3], m.first.weight[:2] * 0).mean(1, keepdim=True),
    "behind its solve": lambda m, h: h + functional.linear(h[:, :3], m.first.weight[:2]).mean(1, keepdim=True),
}


@pytest.mark.parametrize("name", BESIDE_A_MODULE)
def test_slices_of_the_weight_of_a_module_are_read_as_other_numbers_of_it(name):
    run = BESIDE_A_MODULE[name]
    torch.manual_seed(0)
    model, x = Model(lambda m, h: run(m, h)).double(), torch.randn(20, 3, dtype=torch.float64)
    space = TargetSpace(model, x, TargetSpaceConfig(step_scale=1.0, init="normalised"))
    assert [*space.targets] == ["first", "last"]
    check_gradients(space, model, x)
