"""Every refusal says what was found and what to do, and leaves the model as it was."""

import copy
import warnings

import pytest
import torch
from torch import nn

from tests.support.encoders import Net, X, half_frozen, half_frozen_recurrent, tied
from tests.support.fits import assert_equal
from ts_lightning import TargetSpace, TargetSpaceConfig, TargetSpaceError


class Output(nn.Module):
    """The outputs of a recurrent module without its states."""

    def forward(self, result):
        return result[0]


def stepwise(net, x):
    state = x
    for _ in range(3):
        state = net.cell(x, state)
    return net.head(net.encoder(state))


def frozen():
    return Net().requires_grad_(False)


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
    "steps that cannot be joined": (
        lambda: Net(stepwise, cell=nn.GRUCell(3, 3)),
        {"layers": ["cell"], "method": "ocu"},
        X,
        ["layer 'cell' is called step by step", "a recurrent module once for the whole sequence", "'cell' to exclude"],
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
    "lazy": (lambda: Net(lazy=nn.LazyLinear(3)), {}, X, ["layer 'lazy' (LazyLinear) is lazy", "Give its sizes"]),
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


def test_all_problems_of_named_layers_make_one_error():
    net = Net(cell=nn.GRUCell(3, 4), extra=nn.Linear(2, 2))
    net.encoder[0].bias.requires_grad_(False)
    config = TargetSpaceConfig(layers=["cell", "extra", "encoder", "haed"], exclude=["none"])
    with pytest.raises(TargetSpaceError) as caught:
        TargetSpace(net, X, config)
    for text in ("reach cell.", "reach extra.", "'encoder.0' has a frozen", "layers: 'haed'", "exclude: 'none'"):
        assert text in str(caught.value)


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


LISTS = {"lists of numbers": torch.Tensor.tolist, "NumPy arrays": torch.Tensor.numpy}
MODULES = {
    "linear": lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)),
    "convolution": lambda: nn.Conv1d(5, 4, 1),
    "recurrent": lambda: nn.Sequential(nn.LSTM(3, 4), Output()),
    "attention": lambda: nn.TransformerEncoderLayer(3, 1, 4),
    "table": lambda: nn.Sequential(nn.Embedding(9, 3), nn.Linear(3, 2)),
}


@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)
@pytest.mark.parametrize("form", LISTS)
def test_numbers_in_the_place_of_tensors(form, module):
    """It was an AttributeError from within, of the list or the array that a layer was given."""
    with pytest.raises(TargetSpaceError, match=f"holds no tensor, but {form}, which the model does not take"):
        TargetSpace(module(), [LISTS[form](torch.ones(5, 3))])


def test_a_model_that_takes_lists_of_numbers_is_run_on_them():
    class OfLists(nn.Sequential):
        def forward(self, x):
            return super().forward(torch.as_tensor(x))

    space = TargetSpace(OfLists(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), [torch.ones(5, 3).tolist()])
    assert [layer.name for layer in space.layers] == ["0", "2"]


@pytest.mark.parametrize("given", ["adam", torch.optim.Adam, []], ids=["name", "class", "list"])
def test_a_substitution_in_what_is_no_optimizer(given):
    with pytest.raises(TargetSpaceError, match=r"substitute: found .*; expected one optimizer"):
        TargetSpace(Net(), X).substitute(given)
