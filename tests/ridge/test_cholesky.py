"""Solves with a Cholesky factor: by triangular solves and by products with its inverse, as exact as each other."""

import pytest
import torch

from ts_lightning.ridge.cholesky import Cholesky

#: size and columns on both sides of every bound between triangular solves and products
CASES = [(65, 20), (65, 44), (65, 64), (65, 200), (257, 200), (257, 520)]


def system(d, condition):
    """A symmetric matrix (d, d) of a condition number, in float64."""
    torch.manual_seed(d)
    q = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64))[0]
    return (q * torch.logspace(0, -torch.tensor(condition).log10().item(), d, dtype=torch.float64)) @ q.T


@pytest.mark.parametrize("condition", [1e1, 1e5])
@pytest.mark.parametrize(("d", "columns"), CASES)
def test_errors_are_those_of_triangular_solves(d, columns, condition):
    matrix = system(d, condition)
    b = torch.randn(d, columns, dtype=torch.float64)
    exact = torch.linalg.solve(matrix, b)
    lower = torch.linalg.cholesky(matrix.float())
    found, triangular = Cholesky(lower).solve(b), torch.cholesky_solve(b.float(), lower)
    error, allowed = ((x.double() - exact).norm() / exact.norm() for x in (found, triangular))
    assert found.dtype == torch.float32
    assert error <= 2 * allowed + 1e-6


@pytest.mark.parametrize(("d", "columns"), CASES)
def test_several_systems_are_solved_as_each_alone(d, columns):
    factors = [Cholesky(torch.linalg.cholesky(system(d, condition))) for condition in (1e1, 1e3)]
    b = torch.randn(2, d, columns, dtype=torch.float64)
    alone = [factor.solve(one) for factor, one in zip(factors, b, strict=True)]
    torch.testing.assert_close(Cholesky.stacked(factors).solve(b), torch.stack(alone))
    torch.testing.assert_close(Cholesky.stacked(factors[:1]).solve(b[:1])[0], alone[0])
