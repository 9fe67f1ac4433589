"""Noise on the inputs in the ridge solve: the expected Gram matrix, with exact gradients in every form."""

import pytest
import torch

from benchmarks import literal
from ts_lightning.ridge.primal import WHOLE
from ts_lightning.ridge.solve import solve, solve_apply
from ts_lightning.ridge.system import RidgeSolver

SCALES = ("absolute", "variance", "mean", "feature")
FORMS = {"primal": (40, 7), "dual": (6, 20)}
BLOCKS = {
    "whole": [WHOLE],
    "blocks": [(slice(None), slice(0, 2)), (slice(0, 5), slice(2, 3)), (slice(4, None), slice(3, None))],
}


def problem(form, outputs=4):
    generator = torch.Generator().manual_seed(0)
    n, d = FORMS[form]
    a, t = (torch.randn(n, size, generator=generator, dtype=torch.float64).requires_grad_() for size in (d, outputs))
    noise = torch.rand(d, generator=generator, dtype=torch.float64)
    noise[-2:] = 0
    return a, t, noise


def dense(a, t, noise, scale):
    return torch.linalg.solve(
        a.mT @ a + literal.ridge_matrix(a, 0.3, scale) + torch.diag(noise * a.square().sum(0)), a.mT @ t
    )


def solver_of(scale, noise):
    solver = RidgeSolver(0.3, scale)
    solver.noise = noise
    return solver


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("blocks", BLOCKS)
def test_equals_the_dense_solve_with_its_gradients(form, scale, blocks):
    a, t, noise = problem(form)
    along = torch.Generator().manual_seed(1)
    w = solve(a, t, solver_of(scale, noise), BLOCKS[blocks])
    wanted = torch.zeros_like(w)
    for inputs, outputs in BLOCKS[blocks]:
        wanted[inputs, outputs] = dense(a[:, inputs], t[:, outputs], noise[inputs], scale)
    torch.testing.assert_close(w, wanted, rtol=1e-9, atol=1e-11)
    dw = torch.randn(w.shape, generator=along, dtype=w.dtype)
    for found, expected in zip(
        torch.autograd.grad(w, (a, t), dw), torch.autograd.grad(wanted, (a, t), dw), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_the_fused_apply(form, scale):
    a, t, noise = problem(form)
    solver = solver_of(scale, noise)
    assert torch.autograd.gradcheck(lambda a, t: solve_apply(a, t, solver), (a, t))


@pytest.mark.parametrize("form", FORMS)
def test_the_scale_feature_is_such_noise(form):
    """Both add a share of diag(A'A): "feature" with a floor of a millionth that the noise does not have."""
    a, t, noise = problem(form)
    noise = torch.full_like(noise, 0.3)
    w = solve(a, t, solver_of("absolute", noise))
    without = RidgeSolver(0.3, "feature")
    gram = a.mT @ a
    torch.testing.assert_close(
        solve(a, t, without),
        torch.linalg.solve(gram + torch.diag(0.3 * gram.diagonal()), a.mT @ t),
        rtol=1e-4,
        atol=1e-5,
    )
    both = torch.linalg.solve(
        gram + 0.3 * torch.eye(len(gram), dtype=a.dtype) + torch.diag(0.3 * gram.diagonal()), a.mT @ t
    )
    torch.testing.assert_close(w, both, rtol=1e-9, atol=1e-11)
