"""Every refusal says what was found and what to do, and leaves the model as it was."""

import copy
import warnings

import pytest
import torch
from torch import nn

from tests.support.fits import assert_equal
from ts_lightning import TargetSpace, TargetSpaceConfig, TargetSpaceError
from ts_lightning.engine.selection import select_layers


class Net(nn.Module):
    """An encoder and a head; the forward is ``run``."""

    def __init__(self, run=None, **layers):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 4))
        self.head = nn.Linear(4, 2)
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.run = run or (lambda net, x: net.head(net.encoder(x)))

    def forward(self, x):
        return self.run(self, x)


def tied(run=None):
    net = Net(run, other=nn.Linear(4, 2))
    net.other.weight = net.head.weight
    return net


def half_frozen():
    net = Net()
    net.head.bias.requires_grad_(False)
    return net


def half_frozen_recurrent():
    net = Net(rnn=nn.LSTM(3, 4))
    net.rnn.bias_hh_l0.requires_grad_(False)
    return net


class Output(nn.Module):
    """The outputs of a recurrent module without its states."""

    def forward(self, result):
        return result[0]


def frozen():
    return Net().requires_grad_(False)


X = torch.ones(5, 3)
REFUSALS = {
    "no supported layer": (
        lambda: nn.Sequential(nn.Embedding(9, 3), nn.LayerNorm(3)),
        {},
        torch.arange(4),
        ["No layer to solve in Sequential", "1 Embedding, 1 LayerNorm", "nn.Linear, nn.Conv1d"],
    ),
    "no layer at all": (nn.Tanh, {}, X, ["No layer to solve in Tanh", "no layer with parameters"]),
    "all excluded": (
        Net,
        {"exclude": ["*"]},
        X,
        ["No layer to solve in Net", "3 Linear", "neither excluded nor frozen"],
    ),
    "all frozen": (frozen, {}, X, ["No layer to solve in Net", "3 Linear", "frozen"]),
    "half frozen": (
        half_frozen,
        {"layers": ["head"]},
        X,
        ["layer 'head' has a frozen weight or bias", "freeze all", "exclude"],
    ),
    "half frozen, recurrent": (
        half_frozen_recurrent,
        {"layers": ["rnn"]},
        X,
        ["layer 'rnn' has a frozen weight or bias", "freeze all, or none", "exclude"],
    ),
    "a cell": (
        lambda: Net(cell=nn.LSTMCell(3, 4)),
        {"layers": ["cell"]},
        X,
        [
            "layer 'cell' is an nn.LSTMCell, called step by step",
            "Use nn.LSTM on whole sequences",
            "add 'cell' to exclude",
        ],
    ),
    "recurrent, not reached": (
        lambda: Net(rnn=nn.GRU(3, 4, num_layers=2)),
        {"layers": ["rnn"]},
        X,
        ["did not reach rnn. Every", "override reference_forward"],
    ),
    "recurrent, parametrized": (
        lambda: Net(rnn=nn.utils.parametrizations.weight_norm(nn.GRU(3, 4), "weight_hh_l0")),
        {"layers": ["rnn"]},
        X,
        ["layers: 'rnn'", "that linear functions and convolutions apply"],
    ),
    "recurrent, no samples": (
        lambda: nn.GRU(3, 4),
        {},
        torch.ones(5, 0, 3),
        ["layer 'l0' received an empty input, (5, 0, 3)", "at least one sample"],
    ),
    "not reached": (
        lambda: Net(extra=nn.Linear(2, 2)),
        {"layers": ["extra", "head"]},
        X,
        ["did not reach extra", "override reference_forward", "exclude"],
    ),
    "tied": (
        tied,
        {"layers": ["head"]},
        X,
        ["layer 'head' shares a weight: head.weight, other.weight are one", "untie", "exclude"],
    ),
    "lazy norm": (lambda: Net(lazy=nn.LazyBatchNorm1d()), {}, X, ["layer 'lazy' (LazyBatchNorm1d) is lazy"]),
    "lazy": (lambda: Net(lazy=nn.LazyLinear(3)), {}, X, ["layer 'lazy' (LazyLinear) is lazy", "Run one forward pass"]),
    "empty reference": (Net, {}, X[:0], ["layer 'encoder.0' received an empty input, (0, 3)", "at least one sample"]),
    "unknown name": (Net, {"layers": ["haed"]}, X, ["layers: 'haed' matches no layer", "Close names: head"]),
    "unknown exclude": (
        Net,
        {"exclude": ["encoder.4"]},
        X,
        ["exclude: 'encoder.4' matches no layer", "Close names: encoder.3"],
    ),
    "unknown glob": (Net, {"layers": ["zzz*"]}, X, ["layers: 'zzz*' matches no layer", "encoder, encoder.0"]),
    "unsupported by name": (
        Net,
        {"layers": ["encoder.1"]},
        X,
        ["layers: 'encoder.1' matches nothing that can be solved", "encoder.1 (Tanh)"],
    ),
    "unsupported by glob": (
        lambda: Net(norm=nn.LayerNorm(4)),
        {"layers": ["head", "nor*"]},
        X,
        ["layers: 'nor*'", "norm (LayerNorm)", "Supported: nn.Linear"],
    ),
    "parametrized": (
        lambda: Net(head=nn.utils.parametrizations.weight_norm(nn.Linear(4, 2))),
        {"layers": ["head"]},
        X,
        ["layers: 'head'", "(ParametrizedLinear)", "that linear functions and convolutions apply"],
    ),
    "unbatched images": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3)),
        {},
        torch.ones(3, 8, 8),
        ["layer '0' received an input of shape (3, 8, 8)", "(N, C, *space)"],
    ),
    "reference of no known form": (Net, {}, 7, ["reference: found int", "tensor, a tuple"]),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusal(case):
    make, settings, reference, expected = REFUSALS[case]
    model = make()
    for index, module in enumerate(model.modules()):
        module.training = index % 2 == 0  # flags of every kind, all to be kept
    flags = [module.training for module in model.modules()]
    if not case.startswith("lazy"):
        state = copy.deepcopy(model.state_dict())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Left out of target space because they are frozen")
        with pytest.raises(TargetSpaceError) as caught:
            TargetSpace(model, reference, TargetSpaceConfig(**settings))
    for text in expected:
        assert text in str(caught.value)
    assert [module.training for module in model.modules()] == flags
    assert not any("forward" in module.__dict__ for module in model.modules())
    if not case.startswith("lazy"):
        assert_equal(model.state_dict(), state)


def test_an_error_of_the_model_itself_leaves_it_as_it_was():
    def fail(net, x):
        net.encoder(x)
        raise ZeroDivisionError

    model = Net(fail)
    with pytest.raises(ZeroDivisionError):
        TargetSpace(model, X)
    assert all(module.training for module in model.modules())
    assert not any("forward" in module.__dict__ for module in model.modules())


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


def stepwise(net, x):
    return net.head(net.encoder(net.cell(x)[0][:, :3]))


def both(net, x):
    return net.head(net.encoder(x)) + net.other(net.encoder(x))


LEFT = {
    "half frozen": (half_frozen, ("head", "nn.Linear", "partly frozen")),
    "half frozen, recurrent": (half_frozen_recurrent, ("rnn", "nn.LSTM", "partly frozen")),
    "a cell": (lambda: Net(stepwise, cell=nn.LSTMCell(3, 4)), ("cell", "nn.LSTMCell", "called step by step")),
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
        ("head", "nn.Linear", "a weight or option not supported"),
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
    again = TargetSpace(model, x, state=space.state_dict())
    assert expected in again.left
    assert list(again.targets) == list(space.targets)


def test_all_problems_of_named_layers_make_one_error():
    net = Net(cell=nn.GRUCell(3, 4), extra=nn.Linear(2, 2))
    net.encoder[0].bias.requires_grad_(False)
    config = TargetSpaceConfig(layers=["cell", "extra", "encoder", "haed"], exclude=["none"])
    with pytest.raises(TargetSpaceError) as caught:
        TargetSpace(net, X, config)
    for text in ("'cell'", "reach extra", "'encoder.0' has a frozen", "layers: 'haed'", "exclude: 'none'"):
        assert text in str(caught.value)


def test_what_is_excluded_is_not_among_what_is_left():
    model = Net(table=nn.Embedding(3, 3), rnn=nn.GRU(3, 4))
    assert TargetSpace(model, X, TargetSpaceConfig(exclude=["table", "rnn"])).left == []


def test_rows_that_change_later_are_an_error_that_names_the_layer():
    class Late(Net):
        steps = 0

        def forward(self, x):
            h = self.encoder(x)
            return self.head(h[: 5 - self.steps])

    model = Late()
    space = TargetSpace(model, X)
    model.steps = 2
    with pytest.raises(TargetSpaceError, match=r"layer 'head' is applied at \(3,\) places.*found \(5,\).*exclude"):
        space.solve()


def test_a_second_use_that_comes_later_is_an_error_that_names_the_layer():
    class Late(Net):
        twice = False

        def forward(self, x):
            h = self.encoder(x)
            return self.head(self.encoder[3](h) if self.twice else h)

    model = Late()
    space = TargetSpace(model, X)
    model.twice = True
    with pytest.raises(TargetSpaceError, match=r"layer 'encoder\.3' is used twice.*used once when training started"):
        space.solve()
