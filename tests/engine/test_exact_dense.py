"""Gradients of whole dense networks, against the literal implementation and finite differences, in float64."""

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.exactness import check_exact, gradients, random_targets
from tests.support.nets import Dense, loss_on
from ts_lightning import ReferenceConfig, TargetSpace, TargetSpaceConfig
from ts_lightning.config import RidgeScaleName

QUIET = settings(max_examples=100, deadline=None, derandomize=True, database=None)
SCALES = get_args(RidgeScaleName)


def data(rows, inputs, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    reference = torch.randn(rows, inputs, generator=generator, dtype=torch.float64)
    x = torch.randn(7, inputs, generator=generator, dtype=torch.float64)
    return reference, x, torch.randint(classes, (7,), generator=generator)


@QUIET
@given(
    rows=st.integers(2, 24),  # fewer than the inputs (dual) and more (primal)
    inputs=st.integers(1, 6),
    width=st.integers(1, 9),
    depth=st.integers(1, 4),
    outputs=st.integers(1, 4),
    wiring=st.sampled_from(["plain", "residual", "shortcuts"]),
    bias=st.booleans(),
    norm=st.booleans(),
    method=st.sampled_from(["scu", "ocu"]),
    scale=st.sampled_from(SCALES),
    ridge=st.sampled_from([0.03, 0.3, 2.0]),
    seed=st.integers(0, 99),
)
def test_any_dense_network(rows, inputs, width, depth, outputs, wiring, bias, norm, method, scale, ridge, seed):
    torch.manual_seed(seed)
    model = Dense(inputs, width, depth, outputs, wiring=wiring, bias=bias, norm=norm)
    # two rows in a batch norm are +1 and -1 whatever they were: nothing to differentiate
    reference, x, y = data(max(rows, 4) if norm else rows, inputs, outputs, seed)
    config = TargetSpaceConfig(ridge=ridge, ridge_scale=scale, method=method)
    check_exact(model, (reference,), loss_on(x, y), config, seed)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("method", ["scu", "ocu"])
@pytest.mark.parametrize("rows", [4, 30])
@pytest.mark.parametrize("wiring", ["plain", "residual", "shortcuts"])
def test_every_wiring_scale_and_form(wiring, rows, method, scale):
    torch.manual_seed(1)
    model = Dense(3, 6, 3, 3, wiring=wiring)
    reference, x, y = data(rows, 3, 3, 1)
    check_exact(model, (reference,), loss_on(x, y), TargetSpaceConfig(ridge=0.1, ridge_scale=scale, method=method))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("keep", [3, 11, 40])  # dual, primal, more than there are
def test_sampled_rows_of_sequences(keep, scale):
    torch.manual_seed(2)
    model = Dense(3, 5, 2, 3)
    generator = torch.Generator().manual_seed(3)
    reference = torch.randn(4, 6, 3, generator=generator, dtype=torch.float64)  # 24 rows, of any leading shape
    x, y = torch.randn(5, 3, generator=generator, dtype=torch.float64), torch.arange(5) % 3
    config = TargetSpaceConfig(ridge=0.1, ridge_scale=scale, reference=ReferenceConfig(rows=keep))
    space = TargetSpace(model.double(), reference, config)
    assert {tuple(t.shape)[:-1] for t in space.targets.values()} == {(keep,) if keep < 24 else (4, 6)}
    check_exact(Dense(3, 5, 2, 3), (reference,), loss_on(x, y), config)  # a fresh one: solved weights would be kept


@pytest.mark.parametrize("method", ["scu", "ocu"])
def test_activations_in_place_change_nothing(method):
    torch.manual_seed(4)
    model = Dense(3, 5, 2, 3, inplace=True)
    reference, x, y = data(12, 3, 3, 4)
    check_exact(model, (reference,), loss_on(x, y), TargetSpaceConfig(ridge=0.1, method=method))


def test_pullback_of_accumulated_gradients_is_the_sum():
    torch.manual_seed(5)
    model = Dense(3, 6, 2, 3, norm=True).double()
    reference, x, y = data(20, 3, 3, 5)
    space = TargetSpace(model, reference, TargetSpaceConfig(ridge=0.1))
    random_targets(space, torch.Generator().manual_seed(5))
    parts = []
    for part in (slice(0, 3), slice(3, 7)):
        parts.append(gradients(space, model, loss_on(x[part], y[part])))
        space.solve()
    together = gradients(space, model, lambda run: sum(loss_on(x[p], y[p])(run) for p in (slice(0, 3), slice(3, 7))))
    space.solve()
    for parameter in [*model.parameters(), *space.targets.values()]:
        parameter.grad = None
    for part in (slice(0, 3), slice(3, 7)):
        loss_on(x[part], y[part])(model).backward()
    space.pullback()
    for name, target in space.targets.items():
        torch.testing.assert_close(target.grad, together[name], rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(parts[0][name] + parts[1][name], together[name], rtol=1e-10, atol=1e-14)
