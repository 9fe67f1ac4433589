"""The ridge solve as a function of its own."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

from ts_lightning.checks import check_positive
from ts_lightning.config import RidgeScaleName, check_ridge_scale
from ts_lightning.ridge.precision import full_precision
from ts_lightning.ridge.processes import ShardedRows, Shards
from ts_lightning.ridge.solve import solve
from ts_lightning.ridge.system import RidgeSolver


def ridge_solve(
    a: Tensor,
    t: Tensor,
    ridge: float,
    *,
    scale: RidgeScaleName | str = "absolute",
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Solve W = (A'A + R)^-1 A'T, differentiably; primal for N >= d and dual otherwise.

    Half-precision input is accumulated and factorised in float32; float64 is used where float32 cannot hold A'A.

    With a ``group``, A and T are this process's rows (any number, none too) of a system that all of its processes solve
    together, to the same W bit for bit; the gradient on W is then the sum of theirs.

    Args:
        a: inputs A, shape (..., N, d).
        t: targets T, shape (..., N, m).
        ridge: the ridge constant, above 0, in the unit that ``scale`` says.
        scale: the unit of ``ridge``: "absolute": R = ridge I; "variance": R = ridge trace(B'B) / N I, where B is A
            without its columns' means; "mean": R = ridge trace(A'A) / d I; "feature": R = ridge diag(A'A). Or a name
            that was given to :func:`register_ridge_scale`.
        group: the processes that hold rows; ``None`` where all rows are here.

    Returns:
        W, shape (..., d, m), in the precision of ``t``.

    Raises:
        TargetSpaceError: A or T holds a NaN or an infinity.
        TypeError: A or T is no tensor, or the ridge is no number.
        ValueError: shapes do not fit, A is complex, T is not in floating point, the ridge is not above 0, or the scale
            is unknown.

    Source: Fairbank et al. (2022), equation 5; the scales are this package's.

    Examples:
        >>> import torch
        >>> from ts_lightning import ridge_solve
        >>> a = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
        >>> t = torch.tensor([[3.0], [5.0], [1.0]], requires_grad=True)
        >>> w = ridge_solve(a, t, 1.0)  # 3 / (1 + 1) and 2 * 5 / (4 + 1)
        >>> w.detach()
        tensor([[1.5000],
                [2.0000]])
        >>> w.sum().backward()
        >>> t.grad.T
        tensor([[0.5000, 0.4000, 0.0000]])
    """
    others = [
        f"{name} of type {type(given).__name__}"
        for name, given in (("A", a), ("T", t))
        if not isinstance(given, Tensor)
    ]
    if others:
        raise TypeError(f"ridge_solve: found {' and '.join(others)}; expected tensors, as of torch.as_tensor.")
    if a.dim() < 2 or t.dim() < 2 or a.shape[:-1] != t.shape[:-1]:
        raise ValueError(
            f"ridge_solve: found A {tuple(a.shape)} and T {tuple(t.shape)}; expected (..., N, d) and (..., N, m)."
        )
    if a.is_complex() or not t.is_floating_point():
        raise ValueError(
            f"ridge_solve: found A of {a.dtype} and T of {t.dtype}; expected real numbers, and T in floating point, "
            f"whose precision W has."
        )
    ridge = check_positive("ridge", ridge)
    scale = check_ridge_scale("scale", scale)
    solver = RidgeSolver(ridge, scale)
    if group is not None:
        shards = Shards(group, 0)
        solver.shared = ShardedRows(shards, shards.objects(a.shape[-2]))
    if 0 in (solver.rows(a.shape[-2]).total, *a.shape[:-2], a.shape[-1]):
        raise ValueError(f"ridge_solve: found an empty A, {tuple(a.shape)}; expected at least one row and one column.")
    with full_precision(a.device):
        return solve(a, t, solver)
