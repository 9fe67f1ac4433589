"""Which layers are solved: by name, by kind, and what stays in weight space by itself."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.support.encoders import Net, X, half_frozen, half_frozen_recurrent, tied
from tests.support.fits import assert_equal
from ts_lightning import TargetSpace, TargetSpaceConfig, TargetSpaceError
from ts_lightning.engine.survey.selection import select_layers


def test_frozen_layers_are_left_out_and_said_once():
    model = Net()
    model.encoder.requires_grad_(False)
    kept = copy.deepcopy(model.encoder.state_dict())
    with pytest.warns(UserWarning, match=r"frozen: encoder\.0, encoder\.3") as caught:
        space = TargetSpace(model, X)
    assert len(caught) == 1
    space.solve()
    assert list(space.targets) == ["head"]
    assert_equal(model.encoder.state_dict(), kept)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["encoder.0", "encoder.3", "head"]),
        ({"layers": ["encoder"]}, ["encoder.0", "encoder.3"]),
        ({"layers": ["head", "encoder.0"]}, ["encoder.0", "head"]),
        ({"layers": ["*.3"]}, ["encoder.3"]),
        ({"exclude": ["encoder.*"]}, ["head"]),
        ({"exclude": ["encoder"]}, ["head"]),
        ({"layers": ["encoder*"], "exclude": ["*.0"]}, ["encoder.3"]),
    ],
)
def test_names_and_globs(settings, expected):
    assert [layer.name for layer in select_layers(Net(), TargetSpaceConfig(**settings)).layers] == expected


def test_layers_of_a_compiled_model_go_by_their_plain_names():
    chosen = select_layers(torch.compile(Net()), TargetSpaceConfig(layers=["encoder"])).layers
    assert [layer.name for layer in chosen] == ["encoder.0", "encoder.3"]


def test_only_layers_that_compute_what_their_base_class_computes():
    class Same(nn.Linear):
        pass

    class Other(nn.Linear):
        def forward(self, input):
            return super().forward(input) * 2

    model = nn.Sequential(Same(3, 3), Other(3, 3))
    assert [layer.name for layer in select_layers(model, TargetSpaceConfig()).layers] == ["0"]


def test_a_cell_that_is_frozen_or_excluded_or_not_asked_for_is_no_matter():
    for settings in ({"exclude": ["cell"]}, {"layers": ["head"]}):
        found = select_layers(Net(cell=nn.GRUCell(3, 4)), TargetSpaceConfig(**settings))
        assert "head" in [x.name for x in found.layers]
        assert not found.left
    assert not select_layers(Net(cell=nn.RNNCell(3, 4).requires_grad_(False)), TargetSpaceConfig()).left


def test_layers_of_a_stack_are_named_after_their_weights():
    model = Net(rnn=nn.LSTM(3, 4, num_layers=2, bidirectional=True))
    names = ["rnn.l0", "rnn.l0_reverse", "rnn.l1", "rnn.l1_reverse"]
    chosen = select_layers(model, TargetSpaceConfig(layers=["rnn"])).layers
    assert [layer.name for layer in chosen] == names
    for layer in chosen:
        suffix = layer.name.removeprefix("rnn.")
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        expected = [getattr(model.rnn, f"{kind}_{suffix}") for kind in kinds]
        assert [id(p) for p in layer.parameters] == [id(p) for p in expected]


def test_a_module_registered_twice_is_one_layer():
    model = Net()
    model.alias = model.head
    assert [layer.name for layer in select_layers(model, TargetSpaceConfig()).layers] == [
        "encoder.0",
        "encoder.3",
        "head",
    ]


def masked(net, x):
    """Rows of the head are those where the encoder's first output is positive."""
    h = net.encoder(x)
    return net.head(h[h[:, 0] > 0]).sum() + h.mean()


def both(net, x):
    return net.head(net.encoder(x)) + net.other(net.encoder(x))


LEFT = {
    "half frozen": (half_frozen, ("head", "nn.Linear", "partly frozen")),
    "half frozen, recurrent": (half_frozen_recurrent, ("rnn", "nn.LSTM", "partly frozen")),
    "used in parts": (
        lambda: Net(lambda net, x: functional.linear(net.encoder(x), net.head.weight.chunk(2)[0]).repeat(1, 2)),
        ("head", "nn.Linear", "only a part of it is applied"),
    ),
    "dropped": (
        lambda: Net(lambda net, x: functional.linear(net.encoder(x), functional.dropout(net.head.weight, 0.3, False))),
        ("head", "nn.Linear", "used by dropout"),
    ),
    "quantised": (
        lambda: Net(lambda net, x: net.encoder(x) @ (net.head.weight * 4).round().T / 4 + net.head.bias),
        ("head", "nn.Linear", "used by round"),
    ),
    "of a sparse product": (
        lambda: Net(lambda net, x: torch.sparse.mm(net.encoder(x).to_sparse(), net.head.weight.T)),
        ("head", "nn.Linear", "used by sparse_mm"),
    ),
    "an attention by hand": (
        lambda: Net(
            lambda net, x: net.head(functional.linear(net.encoder(x), net.attention.in_proj_weight.chunk(3)[0])),
            attention=nn.MultiheadAttention(4, 2),
        ),
        ("attention", "nn.MultiheadAttention", "only a part of it is applied"),
    ),
    "not reached": (lambda: Net(rnn=nn.GRU(3, 4)), ("rnn", "nn.GRU", "not called in the reference forward")),
    "tied": (lambda: tied(both), ("head", "nn.Linear", "tied to other.weight")),
    "tied, the other one": (lambda: tied(both), ("other", "nn.Linear", "tied to head.weight")),
    "a table": (lambda: Net(table=nn.Embedding(3, 4)), ("table", "nn.Embedding", "a table")),
    "not supported": (
        lambda: Net(attention=nn.MultiheadAttention(4, 2, add_zero_attn=True)),
        ("attention", "nn.MultiheadAttention", "a weight or option not supported"),
    ),
    "parametrized": (
        lambda: Net(head=nn.utils.parametrizations.weight_norm(nn.Linear(4, 2))),
        ("head", "ParametrizedLinear", "parametrized weight"),
    ),
    "hooked weight": (
        lambda: Net(head=nn.utils.spectral_norm(nn.Linear(4, 2))),
        ("head", "nn.Linear", "parametrized weight"),
    ),
    "rows that depend on weights": (lambda: Net(masked), ("head", "nn.Linear", "its rows depend on weights")),
    "a forward set on the instance": (
        lambda: patched(Net(lambda net, x: net.head(net.encoder(net.rnn(x)[0])), rnn=nn.GRU(3, 3))),
        ("rnn", "nn.GRU", "a forward set on the instance"),
    ),
}


def patched(net):
    original = net.rnn.forward
    net.rnn.forward = lambda x: original(x)
    return net


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning", "ignore:.*spectral_norm:FutureWarning")
@pytest.mark.parametrize("case", LEFT)
def test_by_default_it_stays_in_weight_space_and_the_rest_trains(case):
    make, expected = LEFT[case]
    torch.manual_seed(0)
    model, x = make(), torch.randn(40, 3)
    space = TargetSpace(model, x)
    assert expected in space.left
    assert f"{expected[0]} ({expected[1]}: {expected[2]})" in space.describe()
    assert not [name for name in space.targets if name.split(".")[0] == expected[0]]
    optimizer = torch.optim.Adam(space.parameters(), 0.01)
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        space.pullback()
        optimizer.step()
        space.solve()
        assert loss.isfinite()
    space.release()
    again = TargetSpace(model, x, state=space.state_dict())
    assert expected in again.left
    assert list(again.targets) == list(space.targets)


class Inner(nn.Module):
    """The one weight of a module, applied as it is or in parts."""

    def __init__(self, parts):
        super().__init__()
        self.w, self.parts = nn.Parameter(torch.randn(4, 4)), parts

    def forward(self, x):
        return torch.cat([x @ w for w in self.w.split(2, 1)], -1) if self.parts else x @ self.w


@pytest.mark.parametrize("parts", [False, True])
def test_the_name_of_a_weight_means_it_also_where_its_module_has_no_other(parts):
    """To exclude it had no effect, and to ask for it was refused."""
    own = ["0.w.0", "0.w.1"] if parts else ["0"]
    model, x = nn.Sequential(Inner(parts), nn.Linear(4, 2)), torch.randn(20, 4)
    assert [*TargetSpace(model, x).targets] == [*own, "1"]
    assert [*TargetSpace(model, x, TargetSpaceConfig(layers=["0.w"])).targets] == own
    space = TargetSpace(model, x, TargetSpaceConfig(exclude=["0.w"]))
    assert [*space.targets] == ["1"]
    assert space.left == []


def test_where_nothing_can_be_solved_the_reason_is_said():
    model = Inner(parts=False)
    model.forward = lambda x: x @ model.w.clone()
    with pytest.raises(TargetSpaceError, match=r"In weight space: its own weights \(used by clone\)"):
        TargetSpace(model, torch.randn(20, 4))


def test_what_is_excluded_is_not_among_what_is_left():
    model = Net(table=nn.Embedding(3, 3), rnn=nn.GRU(3, 4))
    assert TargetSpace(model, X, TargetSpaceConfig(exclude=["table", "rnn"])).left == []


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize("sizes", [(3, 0), (0, 3)])
def test_a_layer_without_inputs_or_outputs_stays(sizes):
    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.none = nn.Linear(4, 2), nn.Linear(*sizes)

        def forward(self, x):
            return self.net(x), self.none(x[:, : sizes[0]])

    space = TargetSpace(Beside(), torch.randn(9, 4))
    assert [(left.name, left.reason) for left in space.left] == [("none", "weights without entries")]
    with pytest.raises(TargetSpaceError, match=r"layer 'none' \(Linear\) has no inputs or no outputs"):
        TargetSpace(Beside(), torch.randn(9, 4), TargetSpaceConfig(layers=["net", "none"]))


@pytest.mark.parametrize(
    ("experts", "rows", "seed"),
    [*((experts, 30, seed) for experts in (2, 4) for seed in range(8)), (2, 5, 14), (2, 8, 21)],
)
def test_experts_that_had_as_many_rows_with_random_weights_by_chance_stay(experts, rows, seed):
    class Router(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.head = nn.Linear(3, experts), nn.Linear(3, 2)
            self.experts = nn.ModuleList(nn.Linear(3, 3) for _ in range(experts))

        def forward(self, x):
            chosen, out = self.gate(x).argmax(1), torch.zeros_like(x)
            for index, expert in enumerate(self.experts):
                if (chosen == index).any():
                    out[chosen == index] = expert(x[chosen == index])
            return self.head(out)

    torch.manual_seed(seed)
    space = TargetSpace(Router(), torch.randn(rows, 3))
    assert list(space.targets) == ["gate", "head"]
