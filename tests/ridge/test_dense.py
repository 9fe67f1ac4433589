"""A dense layer's solve in one operation: the values and gradients of the solve that it is made of."""

import pytest
import torch

from ts_lightning.ridge.dense import solve_dense
from ts_lightning.ridge.solve import solve_apply
from ts_lightning.ridge.system import RidgeSolver

SCALES = ("absolute", "variance", "mean", "feature")
UNIT = 0.5


def problem(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x, t = (torch.randn(9, size, generator=generator, dtype=torch.float64) for size in (5, 3))
    return x.to(dtype).requires_grad_(), t.to(dtype).requires_grad_()


def in_parts(x, t, solver, bias):
    """Weight, bias and A W by a solve for A = [x, 1]."""
    a = torch.cat([x, x.new_ones(len(x), 1)], 1) if bias else x
    w, z = solve_apply(a, UNIT * t, solver)
    return ([w[:-1].mT, w[-1]] if bias else [w.mT]), z


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("scale", SCALES)
def test_it_gives_what_a_solve_for_all_columns_gives(scale, bias, dtype):
    x, t = problem(dtype)
    values, z = solve_dense(x, t, UNIT, RidgeSolver(0.3, scale), bias=bias)
    expected, expected_z = in_parts(x, t, RidgeSolver(0.3, scale), bias)
    assert len(values) == len(expected)
    for found, wanted in zip([*values, z], [*expected, expected_z], strict=True):
        assert found.dtype == dtype
        torch.testing.assert_close(found, wanted, rtol=0, atol=40 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("scale", SCALES)
def test_its_gradients_are_those_of_finite_differences(scale, bias, noise):
    x, t = problem()
    solver = RidgeSolver(0.3, scale)
    solver.noise = torch.linspace(0, 0.5, 5 + bias, dtype=torch.float64).flip(0) if noise else None

    def outputs(x, t):
        values, z = solve_dense(x, t, UNIT, solver, bias=bias)
        return *values, z

    assert torch.autograd.gradcheck(outputs, (x, t))


@pytest.mark.parametrize("used", [[0], [1], [2], [0, 1], [1, 2]])
def test_outputs_that_a_loss_does_not_use_have_no_part_in_gradients(used):
    x, t = problem()
    gradients = []
    for solved in (
        solve_dense(x, t, UNIT, RidgeSolver(0.3, "variance"), bias=True),
        in_parts(x, t, RidgeSolver(0.3, "variance"), True),
    ):
        outputs = [*solved[0], solved[1]]
        gradients.append(torch.autograd.grad(sum(outputs[i].square().sum() for i in used), (x, t)))
    for found, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_an_observer_sees_targets_in_units_of_the_outputs_and_what_was_missed():
    x, t = problem()
    seen = []
    solver = RidgeSolver(0.3, "variance")
    solver.observer = lambda factors, wanted, residual: seen.append((wanted, residual()))
    _, z = solve_dense(x, t, UNIT, solver, bias=True)
    ((wanted, residual),) = seen
    torch.testing.assert_close(wanted, UNIT * t)
    torch.testing.assert_close(residual, UNIT * t - z)
