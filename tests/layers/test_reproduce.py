"""Targets that reproduce given weights: on the rows to 1e-8, whatever the rank, the condition and the rounding."""

import itertools

import pytest
import torch
from torch import nn

from tests.support.exactness import relative
from ts_lightning import TargetSpaceConfig
from ts_lightning.config import ridge_scales
from ts_lightning.layers.binding import StepUnit
from ts_lightning.layers.recurrent.sequences import Dense, Sequences
from ts_lightning.layers.registry import family
from ts_lightning.layers.reproduce import reproduce_matrix
from ts_lightning.ridge.solve import solve
from ts_lightning.ridge.system import RidgeSolver

SHAPES = {"primal": (200, 20), "square": (20, 20), "dual": (12, 20), "groups": (2, 60, 20)}
#: of one direction of A beside the others
SIZES = [1.0, 1e-4, 1e-6, 3e-7, 1e-7, 3e-8, 1e-8, 1e-9, 1e-12, 0.0]


def perturbed(x, by):
    """``x`` (rows first) with other rounding: in another order of rows, or by less than anybody sees."""
    return {
        "as it is": lambda: x,
        "rows reversed": lambda: x.flip(-2),
        "rows shuffled": lambda: x[..., torch.randperm(x.shape[-2]), :],
        "times 1 + 1e-15": lambda: x * (1 + 1e-15),
        "times 3": lambda: 3 * x,
    }[by]()


PERTURBATIONS = ["as it is", "rows reversed", "rows shuffled", "times 1 + 1e-15", "times 3"]


@pytest.mark.parametrize("by", PERTURBATIONS)
@pytest.mark.parametrize("scale", ridge_scales[:4])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_matrix_of_any_condition_and_rank(shape, scale, by):
    # from eigenvalues of the Gram matrix, a direction of 3e-7 of the others cost 2e-4
    torch.manual_seed(0)
    for size, repeated in itertools.product(SIZES, [False, True]):
        a = torch.randn(SHAPES[shape], dtype=torch.float64)
        a[..., 0] *= size
        if repeated:
            a[..., 1] = a[..., 2]
        a = perturbed(a @ torch.linalg.qr(torch.randn(20, 20, dtype=torch.float64))[0], by)
        w0 = torch.randn(*SHAPES[shape][:-2], 20, 3, dtype=torch.float64)
        solver = RidgeSolver(0.1, scale)
        targets, _ = reproduce_matrix(a, w0, solver, 0.0)
        assert relative(a @ solve(a, targets, solver), a @ w0) < 1e-8, (size, repeated)


@pytest.mark.parametrize("shape", ["primal", "dual"])
def test_in_float32_targets_are_no_larger_than_rounding_allows(shape):
    torch.manual_seed(0)
    for size in SIZES:
        a = torch.randn(SHAPES[shape], dtype=torch.float64)
        a[:, 0] *= size
        a = (a @ torch.linalg.qr(torch.randn(20, 20, dtype=torch.float64))[0]).float()
        w0, solver = torch.randn(20, 3), RidgeSolver(0.1, "variance")
        targets = reproduce_matrix(a, w0, solver, 0.0)[0].float()
        assert relative(a @ solve(a, targets, solver), a @ w0) < 5e-4, size


CELLS = {"tanh": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


@pytest.mark.parametrize("by", ["as it is", "sequences reversed", "times 1 + 1e-15", "times 1 - 1e-15"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_recurrent_layer_of_fewer_sequences_than_columns(cell, by):
    # plain repetition swings apart, and there are too few last steps: the accelerated one settles at what rounding is
    torch.manual_seed(0)
    module = CELLS[cell](4, 12).double()
    nn.init.orthogonal_(module.weight_hh_l0)
    x = torch.randint(2, (60, 8, 4)).double()
    x = {
        "as it is": lambda: x,
        "sequences reversed": lambda: x.flip(1),
        "times 1 + 1e-15": lambda: x * (1 + 1e-15),
        "times 1 - 1e-15": lambda: x * (1 - 1e-15),
    }[by]()
    state = torch.zeros(8, 12, dtype=torch.float64)
    given = Sequences(x, (state, state) if cell == "lstm" else (state,), Dense(0))
    (layer,) = family(module).of("rnn", module, TargetSpaceConfig())
    layer.adopt(layer.bind(given, "all", StepUnit(1.0), torch.Generator()))
    values = [parameter.detach() for parameter in module.parameters()]
    with torch.no_grad():
        targets, rank, columns = layer.reproduce(given, values, 0.0)
        assert rank == columns == 17
        assert relative(layer.achieved(given, layer.solve(given, targets)[0]), layer.achieved(given, values)) < 1e-8
