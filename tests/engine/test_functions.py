"""Weights that a forward reaches through a function and not through their module."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.support.exactness import check_model, close, random_targets
from ts_lightning import ReferenceConfig, TargetSpace, TargetSpaceConfig, TargetSpaceError


def matrix(rows, columns):
    return nn.Parameter(torch.randn(rows, columns) / columns**0.5)


class Block(nn.Module):
    """A weight and perhaps a bias, applied by ``run(block, x)`` to an input (..., 4), with an output (..., 4)."""

    def __init__(self, run, shape=(4, 4), bias=True):
        super().__init__()
        self.run = run
        self.weight = nn.Parameter(torch.randn(shape) / 2)
        self.bias = nn.Parameter(torch.zeros(4)) if bias else None

    def forward(self, x):
        return self.run(self, x)


class Scaled(nn.Linear):
    """A subclass with a forward of its own."""

    def forward(self, x):
        return 2 * super().forward(x) + 1


class Conv1D(nn.Module):
    """As in GPT-2: a weight (in, out) and addmm."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = matrix(4, 4), nn.Parameter(torch.zeros(4))

    def forward(self, x):
        return torch.addmm(self.bias, x.reshape(-1, 4), self.weight).view(x.shape)


class Padded(nn.Conv1d):
    """A convolution that pads by itself."""

    def forward(self, x):
        z = functional.conv1d(functional.pad(x.unsqueeze(-2), (1, 1)), self.weight, self.bias, 1, 0, (1,), self.groups)
        return z.mean(1) if z.shape[1] == 1 else z[:, 0] + z[:, 1]


class LoRA(nn.Module):
    """A constant weight and two factors."""

    def __init__(self):
        super().__init__()
        self.register_buffer("base", torch.randn(4, 4))
        self.a, self.b = matrix(4, 2), matrix(2, 4)

    def forward(self, x):
        return x @ self.base + x @ self.a @ self.b


class ReadElsewhere(nn.Module):
    """A module that is called, and whose weight is read beside."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return self.inner(x) + self.inner.weight.square().mean() + x @ self.inner.weight


class Twice(nn.Module):
    """A module that is called, and whose weight is applied by a function beside."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4, bias=False)

    def forward(self, x):
        return self.inner(x) + torch.tanh(functional.linear(x.flip(-1), self.inner.weight) + 1)


BLOCKS = {
    "linear": lambda: Block(lambda b, x: functional.linear(x, b.weight, b.bias)),
    "linear, bias by name": lambda: Block(lambda b, x: functional.linear(x, weight=b.weight, bias=b.bias)),
    "@": lambda: Block(lambda b, x: x @ b.weight + b.bias),
    "@ transposed": lambda: Block(lambda b, x: x @ b.weight.T, bias=False),
    "matmul, t()": lambda: Block(lambda b, x: torch.matmul(x, b.weight.t()), bias=False),
    "from the left": lambda: Block(lambda b, x: (b.weight @ x.mT).mT, bias=False),
    "from the left, transposed": lambda: Block(lambda b, x: (b.weight.transpose(0, 1) @ x.mT).mT, bias=False),
    "twice, in one form": lambda: Block(lambda b, x: torch.tanh(x @ b.weight) @ b.weight, bias=False),
    "a computed bias": lambda: Block(lambda b, x: functional.linear(x, b.weight, b.bias.exp())),
    "addmm": Conv1D,
    "in another shape": lambda: Block(lambda b, x: x @ b.weight.view(4, 4).T, (2, 2, 4), bias=False),
    "a pointwise convolution's": lambda: Block(
        lambda b, x: functional.linear(x, b.weight.squeeze(-1).squeeze(-1), b.bias), (4, 4, 1, 1)
    ),
    "convolution in another shape": lambda: Block(
        lambda b, x: functional.conv1d(x.unsqueeze(-1), b.weight.unsqueeze(1), b.bias, padding=1, groups=4).squeeze(-1),
        (4, 3),
    ),
    "a vector": lambda: Block(lambda b, x: x + x @ b.weight.unsqueeze(1), (4,), bias=False),
    "subclass": lambda: Scaled(4, 4),
    "module and function": Twice,
    "module, and its weight beside": ReadElsewhere,
    "convolution": lambda: Padded(1, 2, 3),
    "LoRA": LoRA,
}


def network(block):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), block(), nn.Tanh(), nn.Linear(4, 2)).double()


@pytest.mark.parametrize("rows", ["auto", 12])
@pytest.mark.parametrize("method", ["scu", "ocu"])
@pytest.mark.parametrize("block", BLOCKS)
def test_gradients_predict_finite_differences(block, method, rows):
    if method == "ocu" and rows != "auto":
        pytest.skip("targets are passed on from all rows")
    model, generator = network(BLOCKS[block]), torch.Generator().manual_seed(0)
    reference, x = torch.randn(20, 3, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    space = check_model(model, reference, x, generator, method=method, reference=ReferenceConfig(rows=rows))
    assert len(space.targets) == (4 if block == "LoRA" else 3)


@pytest.mark.parametrize("block", [name for name in BLOCKS if name not in ("convolution", "twice, in one form")])
def test_a_start_from_the_weights_keeps_the_function(block):
    model = network(BLOCKS[block])
    reference, x = torch.randn(40, 3, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    before = model(x).detach()
    TargetSpace(model, reference, TargetSpaceConfig(init="weights"))
    assert close(model(x), before, 1e-8)


def test_a_dense_solve_gives_the_same_weights():
    model, reference = network(Conv1D), torch.randn(20, 3, dtype=torch.float64)
    space = TargetSpace(model, reference, TargetSpaceConfig(ridge=0.3, ridge_scale="absolute", step_scale=1.0))
    random_targets(space, torch.Generator().manual_seed(0))
    assert list(space.targets) == ["0", "2", "4"]
    a = torch.cat([model[1](model[0](reference)), torch.ones(20, 1).double()], 1)
    w = torch.linalg.solve(a.T @ a + 0.3 * torch.eye(5).double(), a.T @ space.targets["2"].detach())
    assert close(model[2].weight, w[:-1])
    assert close(model[2].bias, w[-1])


MAPPED = "called in a transform of torch.func"
LEFT = {
    "in two forms": (lambda b, x: torch.tanh(x @ b.weight) @ b.weight.T, "applied in several ways"),
    "of which more is made": (lambda b, x: x @ b.weight + b.weight.square().sum(), "used by square"),
    "of weights alone": (lambda b, x: x @ (b.weight @ b.weight), "used by matmul"),
    "another reading": (lambda b, x: x @ b.weight.view(torch.int64).double(), "used by view"),
    "standardised": (lambda b, x: x @ ((b.weight - b.weight.mean()) / b.weight.std()), "used by mean, sub, std"),
    "mapped": (lambda b, x: torch.vmap(lambda w: torch.tanh(x @ w), 1, 1)(b.weight), MAPPED),
    "mapped, in a dictionary": (lambda b, x: torch.vmap(lambda p: x @ p["w"], 1, 1)({"w": b.weight}), MAPPED),
    "mapped twice": (lambda b, x: x + torch.vmap(torch.vmap(torch.tanh))(b.weight).sum(), MAPPED),
    "pulled back": (lambda b, x: x + torch.func.vjp(lambda w: w.sin().sum(0), b.weight)[0], MAPPED),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_is_left(case):
    run, reason = LEFT[case]
    model = network(lambda: Block(run, bias=False))
    space = TargetSpace(model, torch.randn(20, 3, dtype=torch.float64))
    assert [(name, kind) for name, kind, _ in space.left] == [("2", "Block")]
    assert sorted(space.left[0].reason.removeprefix("used by ").split(", ")) == sorted(
        reason.removeprefix("used by ").split(", ")
    )
    assert list(space.targets) == ["0", "4"]


@pytest.mark.parametrize("called", [False, True])
def test_a_weight_of_two_modules_is_left_as_tied(called):
    """Not as one that is applied in several ways, which it is not."""
    model = network(lambda: Block(lambda b, x: x @ b.weight.T + (b.twin(x) if called else 0), bias=False))
    model[2].twin = nn.Linear(4, 4, bias=False).double()
    model[2].twin.weight = model[2].weight
    space = TargetSpace(model, torch.randn(20, 3, dtype=torch.float64))
    assert sorted(space.left) == [
        ("2", "Block", "tied to 2.twin.weight"),
        ("2.twin", "nn.Linear", "tied to 2.weight"),
    ]


BESIDE = {
    "idle": (lambda b, x: x @ b.weight, "not called in the reference forward"),
    "added": (lambda b, x: x @ b.weight + b.other.square().sum(0), "used by square"),
    "mapped": (lambda b, x: x @ b.weight + torch.vmap(torch.sum)(b.other), MAPPED),
}


@pytest.mark.parametrize("case", BESIDE)
def test_a_weight_beside_a_solved_one_is_left_for_its_own_reason_and_goes_on_so(case):
    run, reason = BESIDE[case]

    def made():
        model = network(lambda: Block(run, bias=False))
        model[2].other = matrix(4, 4)
        return model

    model, reference = made(), torch.randn(20, 3, dtype=torch.float64)
    space = TargetSpace(model, reference)
    assert list(space.targets) == ["0", "2", "4"]
    assert space.left == [("2", "Block", reason)]
    twin = made()
    twin.load_state_dict(model.state_dict())
    other = TargetSpace(twin, reference, state=space.state_dict())
    assert list(other.targets) == ["0", "2", "4"]
    assert other.left == space.left
    other.solve()
    assert all(map(torch.equal, twin.parameters(), model.parameters()))


class Table(nn.Module):
    """Rows of a table, taken by a function, beside weights that only others use."""

    def __init__(self):
        super().__init__()
        self.tables = nn.ParameterDict({"words": matrix(5, 4)})
        self.scales = nn.ParameterList([matrix(1, 4)])

    def forward(self, x):
        return x * self.scales[0] + functional.embedding((x[:, 0] > 0).long(), self.tables["words"])


def test_what_holders_of_parameters_are_left_for():
    space = TargetSpace(network(Table), torch.randn(20, 3, dtype=torch.float64))
    assert space.left == [("2.tables", "nn.ParameterDict", "a table"), ("2.scales", "nn.ParameterList", "used by mul")]


def test_names_and_globs():
    reference = torch.randn(20, 3, dtype=torch.float64)
    for settings, expected in (
        ({"layers": ["2"]}, ["2.a", "2.b"]),
        ({"layers": ["2.a"]}, ["2.a"]),
        ({"exclude": ["2.a", "0"]}, ["2.b", "4"]),
    ):
        space = TargetSpace(network(LoRA), reference, TargetSpaceConfig(**settings))
        assert list(space.targets) == expected


def test_a_call_that_changes_later_is_an_error_that_names_the_layer():
    model = network(lambda: Block(lambda b, x: x @ (b.weight.T if getattr(b, "turned", False) else b.weight)))
    space = TargetSpace(model, torch.randn(20, 3, dtype=torch.float64))
    model[2].turned = True
    with pytest.raises(TargetSpaceError, match=r"did not reach 2\..*exclude"):
        space.solve()
