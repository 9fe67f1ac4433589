"""Systems that share their rows: each block is solved for itself, whatever the others are."""

from typing import get_args

import pytest
import torch

from benchmarks import literal
from tests.support.exactness import close
from ts_lightning.config import RidgeScaleName
from ts_lightning.ridge.moments import matrix_moments
from ts_lightning.ridge.solve import solve
from ts_lightning.ridge.system import RidgeSolver

SCALES = get_args(RidgeScaleName)


def gates(inputs, hidden):
    """The blocks of a GRU."""
    rz, nx = 2 * hidden, 3 * hidden
    return [
        (slice(None), slice(0, rz)),
        (slice(0, inputs + 1), slice(rz, nx)),
        (slice(inputs, None), slice(nx, None)),
    ]


def one_by_one(a, t, scale, blocks):
    w = a.new_zeros(*a.shape[:-2], a.shape[-1], t.shape[-1])
    for inputs, outputs in blocks:
        w[..., inputs, outputs] = literal.ridge_solve(a[..., inputs], t[..., outputs], 0.3, scale)
    return w


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("rows", [12, 6, 3])  # as many as all inputs, as some block's, as no block's
def test_blocks_equal_systems_of_their_own(rows, batch, scale):
    torch.manual_seed(rows)
    a = (torch.randn(*batch, rows, 7, dtype=torch.float64) + 1).requires_grad_()
    t = torch.randn(*batch, rows, 8, dtype=torch.float64, requires_grad=True)
    solver, blocks = RidgeSolver(0.3, scale), gates(3, 2)
    assert close(solve(a, t, solver, blocks), one_by_one(a, t, scale, blocks))
    assert torch.autograd.gradcheck(lambda a, t: solve(a, t, solver, blocks), (a, t))


def test_wide_blocks_whose_gram_matrix_is_a_triangle():
    torch.manual_seed(0)
    a = torch.randn(700, 450, dtype=torch.float64, requires_grad=True)
    t = torch.randn(700, 400, dtype=torch.float64, requires_grad=True)
    blocks = [
        (slice(None), slice(0, 200)),
        (slice(0, 401), slice(200, 300)),
        (slice(30, None), slice(300, None)),
    ]
    found, expected = solve(a, t, RidgeSolver(0.3, "variance"), blocks), one_by_one(a, t, "variance", blocks)
    assert close(found, expected)
    for mine, theirs in zip(
        torch.autograd.grad(found.square().sum(), [a, t]),
        torch.autograd.grad(expected.square().sum(), [a, t]),
        strict=True,
    ):
        assert close(mine, theirs)


def test_one_block_in_float64_beside_one_in_float32():
    torch.manual_seed(0)
    a = torch.randn(500, 7)
    a[:, 0] = 300 + 1e-3 * torch.randn(500)
    t = torch.randn(500, 8)
    blocks = [(slice(0, 4), slice(0, 4)), (slice(3, None), slice(4, None))]
    a, t = a.requires_grad_(), t.requires_grad_()
    w = solve(a, t, RidgeSolver(0.1, "absolute"), blocks)
    assert [factor.cholesky.dtype for factor in w.grad_fn.factors] == [torch.float64, torch.float32]
    exact = [x.detach().double().requires_grad_() for x in (a, t)]
    expected = solve(*exact, RidgeSolver(0.1, "absolute"), blocks)
    for mine, theirs in zip(
        torch.autograd.grad(w.square().sum(), [a, t]),
        torch.autograd.grad(expected.square().sum(), exact),
        strict=True,
    ):
        assert float((mine - theirs).norm() / theirs.norm()) < 1e-3


@pytest.mark.parametrize("rows", [20, 4])
def test_the_variance_scale_knows_neither_the_number_of_rows_nor_the_means(rows):
    torch.manual_seed(0)
    a = torch.randn(rows, 7, dtype=torch.float64)

    def ridge(a):
        solver = RidgeSolver(0.3, "variance")
        primal = solver.primal(lambda dtype: matrix_moments(a.to(dtype)), len(a), a.dtype)
        assert close(solver.dual(a).c, primal.c)
        return primal.c

    assert close(ridge(a), 0.3 * a.var(0, correction=0).sum().view(1), 1e-5)
    assert close(ridge(a.repeat(3, 1)), ridge(a))
    assert close(ridge(a + 5), ridge(a), 1e-3)  # but for the millionth of the trace
