"""The ridge solve against a dense float64 solve: forms, scales, precisions, batches, and what it refuses."""

import warnings
from typing import get_args

import pytest
import torch

from benchmarks import literal
from ts_lightning import TargetSpaceError, ridge_solve
from ts_lightning.config import RidgeScaleName
from ts_lightning.ridge.moments import gram_matrix, matrix_moments
from ts_lightning.ridge.solve import solve, solve_apply
from ts_lightning.ridge.system import RidgeSolver

SCALES = get_args(RidgeScaleName)
FORMS = {"primal": (40, 7), "square": (9, 9), "dual": (6, 30), "one row": (1, 5), "one column": (8, 1)}
# for finite differences by every number
SMALL = {**FORMS, "primal": (9, 5), "square": (5, 5), "dual": (5, 8)}
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-4, torch.bfloat16: 2e-2, torch.float16: 4e-3}


def tolerance(form, scale, dtype=torch.float64):
    # one row has no variance but for rounding, which a ridge of a millionth does not quite hide
    return max(TOLERANCE[dtype], 1e-8 if (form, scale) == ("one row", "variance") else 0)


def problem(form, batch=(), dtype=torch.float64, outputs=3, seed=0, forms=FORMS):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(*batch, *forms[form], generator=generator, dtype=torch.float64)
    t = torch.randn(*batch, forms[form][0], outputs, generator=generator, dtype=torch.float64)
    return a.to(dtype), t.to(dtype)


def error(found, expected):
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("form", FORMS)
def test_equals_the_dense_solve(form, scale, batch, dtype):
    a, t = problem(form, batch, dtype)
    w = ridge_solve(a, t, 0.3, scale=scale)
    assert w.dtype == dtype
    assert error(w, literal.ridge_solve(a.double(), t.double(), 0.3, scale)) < tolerance(form, scale, dtype)


@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("form", FORMS)
# of five columns: with a residual, without one, and by the factor's inverse; the dual has two forms of its gradient
@pytest.mark.parametrize("outputs", [2, 5, 10])
def test_gradients_of_solve_and_fused_apply(form, scale, batch, outputs):
    a, t = (x.requires_grad_() for x in problem(form, batch, outputs=outputs, forms=SMALL))
    solver = RidgeSolver(0.3, scale)
    assert torch.autograd.gradcheck(lambda a, t: solve(a, t, solver), (a, t))
    assert torch.autograd.gradcheck(lambda a, t: solve_apply(a, t, solver), (a, t))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("form", FORMS)
def test_gradients_equal_those_through_the_dense_solve(form, scale):
    a, t = (x.requires_grad_() for x in problem(form, seed=1))
    generator = torch.Generator().manual_seed(2)
    w, z = solve_apply(a, t, RidgeSolver(0.3, scale))
    dw, dz = (torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in (w, z))
    found = torch.autograd.grad([w, z], [a, t], [dw, dz])
    w = literal.ridge_solve(a, t, 0.3, scale)
    for gradient, expected in zip(found, torch.autograd.grad([w, a @ w], [a, t], [dw, dz]), strict=True):
        assert error(gradient, expected) < tolerance(form, scale)


def test_second_derivatives_are_refused_rather_than_wrong():
    a, t = (x.requires_grad_() for x in problem("primal"))
    (gradient,) = torch.autograd.grad(ridge_solve(a, t, 0.3).square().sum(), t, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_accumulates_in_float32(dtype):
    # 4,096 ones add up to 4,096, which neither counts to one by one
    a = torch.ones(4096, 1, dtype=dtype)
    t = torch.ones(4096, 1, dtype=dtype)
    assert float(ridge_solve(a, t, 1e-3)) == 1.0
    a, t = problem("primal", dtype=dtype, seed=3)
    # the same numbers in float32 give the same weights, rounded once
    assert torch.equal(ridge_solve(a, t, 0.3), ridge_solve(a.float(), t.float(), 0.3).to(dtype))


def stiff(rows=6000, columns=24):
    """Hidden states near saturation; eigenvalues from 1e-4 to 1e6, beyond float32."""
    generator = torch.Generator().manual_seed(0)
    state = torch.sign(torch.randn(rows, 1, generator=generator, dtype=torch.float64))
    a = 15 * state + 1e-4 * torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return a.float(), torch.randn(rows, 2, generator=generator, dtype=torch.float64).float()


@pytest.mark.parametrize("scale", SCALES)
def test_goes_to_float64_where_float32_cannot_hold_the_gram_matrix(scale):
    a, t = stiff()
    ridge = 0.1 if scale == "absolute" else 1e-7
    gram = a.T @ a
    # the case is real: rounding in float32 outweighs the ridge
    assert float(torch.linalg.eigvalsh(gram.double())[0]) < -0.1
    expected = literal.ridge_solve(a.double(), t.double(), ridge, scale)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert error(ridge_solve(a, t, ridge, scale=scale), expected) < 1e-6


@pytest.mark.parametrize("ridge", [1.0, 2.0])
def test_goes_to_float64_where_float32_factorises_but_is_wrong(ridge):
    a, t = stiff()
    expected = literal.ridge_solve(a.double(), t.double(), ridge, "absolute")
    assert error(solve(a, t, RidgeSolver(ridge, "absolute", "float32")), expected) > 0.1
    assert error(ridge_solve(a, t, ridge), expected) < 1e-6


@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_what_cannot_be_factorised_gets_a_larger_ridge_said_once(precision):
    a, t = stiff()
    if precision == "auto":  # beyond float64 too
        a = a.double().sign() * 1e10
    solver = RidgeSolver(0.1, "absolute", precision, "layer 'readout'")
    with pytest.warns(UserWarning, match="layer 'readout'.*cannot be factorised") as caught:
        w = solve(a, t, solver)
    assert w.isfinite().all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(solve(a, t, solver), w)
        factor = solver.primal(lambda dtype: matrix_moments(a.to(dtype)), len(a), a.dtype)
    used = float(factor.c)
    assert f"with ridge 0.1; {used:g} is used" in str(caught[0].message)
    # the least power of ten that will do
    gram = gram_matrix(a)
    assert int(torch.linalg.cholesky_ex(gram + used * torch.eye(len(gram), dtype=gram.dtype)).info) == 0
    assert int(torch.linalg.cholesky_ex(gram + used / 10 * torch.eye(len(gram), dtype=gram.dtype)).info) != 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("which", ["inputs", "targets"])
@pytest.mark.parametrize("form", ["primal", "dual"])
@pytest.mark.parametrize("dtype", ["auto", "float32", "float64"])
def test_a_nan_raises_and_names_the_layer(form, which, value, dtype):
    a, t = problem(form, dtype=torch.float32)
    (a if which == "inputs" else t)[0, 0] = value
    with pytest.raises(TargetSpaceError, match=f"layer 'fc': .*{which}.* hold a NaN or an infinity"):
        solve(a, t, RidgeSolver(0.3, "mean", dtype, "layer 'fc'"))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("form", ["primal", "dual"])
def test_features_that_are_always_zero(form, scale):
    a, t = problem(form)
    a[:, 1] = 0
    w = ridge_solve(a, t, 0.3, scale=scale)
    assert not w[1].any()
    assert error(w, literal.ridge_solve(a, t, 0.3, scale)) < 1e-11
    assert not ridge_solve(torch.zeros_like(a), t, 0.3, scale=scale).any()


@pytest.mark.parametrize(
    ("a", "t"),
    [((5, 3), (4, 2)), ((5,), (5, 2)), ((5, 3), (5,)), ((2, 5, 3), (5, 2)), ((0, 3), (0, 2)), ((5, 0), (5, 2))],
)
def test_shapes_that_do_not_fit(a, t):
    with pytest.raises(ValueError, match=r"found .*expected"):
        ridge_solve(torch.ones(a), torch.ones(t), 0.1)


@pytest.mark.parametrize(
    ("a", "t"),
    [
        (torch.float32, torch.int64),
        (torch.float32, torch.bool),
        (torch.float32, torch.complex64),
        (torch.complex64, torch.float32),
    ],
)
def test_numbers_that_hold_no_solution(a, t):
    """W was rounded to the whole numbers of T, as of ``one_hot``: to zeros."""
    with pytest.raises(ValueError, match=f"found A of {a} and T of {t}; expected real numbers"):
        ridge_solve(torch.ones(4, 2, dtype=a), torch.ones(4, 3, dtype=t), 1.0)


@pytest.mark.parametrize(("a", "t"), [(True, False), (False, True), (False, False)])
@pytest.mark.parametrize("kind", [torch.Tensor.numpy, torch.Tensor.tolist], ids=["array", "list"])
def test_what_is_no_tensor(kind, a, t):
    """It was an AttributeError of the array's or list's."""
    given = [x if kept else kind(x) for x, kept in ((torch.ones(4, 2), a), (torch.ones(4, 3), t))]
    with pytest.raises(TypeError, match=f"found {'T' if a else 'A'} of type .*expected tensors"):
        ridge_solve(*given, 1.0)


@pytest.mark.parametrize("ridge", [0.0, -1.0, float("nan")])
def test_a_ridge_that_is_not_positive(ridge):
    with pytest.raises(ValueError, match="ridge"):
        ridge_solve(torch.ones(3, 2), torch.ones(3, 1), ridge)


def test_an_unknown_scale():
    with pytest.raises(ValueError, match=r"scale='max'.*absolute.*mean.*feature"):
        ridge_solve(torch.ones(3, 2), torch.ones(3, 1), 0.1, scale="max")


@pytest.mark.parametrize("columns", [385, 500])
def test_wide_gram_matrix_by_blocks(columns):
    a = torch.randn(20, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(gram_matrix(a).tril(), (a.T @ a).tril())
    a = torch.randn(600, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = a[:, :2] + 1
    assert error(ridge_solve(a, t, 0.3), literal.ridge_solve(a, t, 0.3, "absolute")) < 1e-11


@pytest.mark.parametrize("scale", ["variance", "mean", "feature"])  # beside 1e35 an absolute ridge is rounding
def test_inputs_whose_sums_overflow_when_squared_have_the_right_ridge(scale):
    a, t = problem("primal", dtype=torch.float32)
    a = 3e17 * (1 + a.abs())  # of 40 rows, so that a column's sum is about 2e19
    assert torch.isinf(a.sum(0).square().sum())
    found = solve(a, t, RidgeSolver(0.3, scale, "float32"))
    assert error(found, literal.ridge_solve(a.double(), t.double(), 0.3, scale)) < 2e-3
