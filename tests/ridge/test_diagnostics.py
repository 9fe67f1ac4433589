"""What the Cholesky factor tells of a system, against the eigenvalues of the system built densely."""

import pytest
import torch

from benchmarks.literal import ridge_matrix
from ts_lightning.ridge.diagnostics import spectrum
from ts_lightning.ridge.system import RidgeSolver


@pytest.mark.parametrize("scale", ["absolute", "variance", "mean", "feature"])
@pytest.mark.parametrize(
    ("shape", "decay"), [((50, 20), 0), ((80, 60), 1), ((400, 90), 2), ((3, 40, 12), 1), ((30, 60), 1), ((2, 9, 25), 0)]
)
def test_condition_and_rank_against_eigenvalues(shape, decay, scale):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(shape, generator=generator, dtype=torch.float64)
    a = a * torch.arange(1, shape[-1] + 1, dtype=torch.float64) ** -decay
    a = a @ torch.linalg.qr(torch.randn(shape[-1], shape[-1], generator=generator, dtype=torch.float64))[0] + 0.1
    solver, dual = RidgeSolver(0.01, scale), shape[-2] < shape[-1]
    factor = solver.dual(a) if dual else solver.primal(lambda _: (a.mT @ a, a.sum(-2)), shape[-2], a.dtype)
    condition, rank = spectrum(factor)

    r = ridge_matrix(a, 0.01, scale)
    gram = a.mT @ a
    torch.testing.assert_close(rank, torch.linalg.solve(gram + r, gram).diagonal(dim1=-2, dim2=-1).sum(-1))
    c, s2 = (0.01, r / 0.01) if scale == "feature" else (r[..., :1, :1], torch.eye(shape[-1], dtype=torch.float64))
    kernel = a @ torch.linalg.solve(s2, a.mT) + c * torch.eye(shape[-2], dtype=torch.float64)
    values = torch.linalg.eigvalsh(kernel if dual else gram + r)
    true = values[..., -1] / values[..., 0]
    diagonal = torch.linalg.cholesky(kernel if dual else gram + r).diagonal(dim1=-2, dim2=-1)
    assert (condition <= true * (1 + 1e-9)).all()
    assert (condition >= 0.8 * true).all()
    assert (condition >= (diagonal.amax(-1) / diagonal.amin(-1)) ** 2).all()
