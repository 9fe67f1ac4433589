"""Gradients of whole convolutional networks, against the literal implementation and finite differences, in float64."""

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.exactness import check_exact
from tests.support.nets import Conv, loss_on
from ts_lightning import ReferenceConfig, TargetSpaceConfig
from ts_lightning.config import RidgeScaleName

QUIET = settings(max_examples=100, deadline=None, derandomize=True, database=None)
SCALES = get_args(RidgeScaleName)


def check(model, images, size, config, seed=0):
    generator = torch.Generator().manual_seed(seed)
    channels = model.first.in_channels
    reference = torch.randn(images, channels, *size, generator=generator, dtype=torch.float64)
    x = torch.randn(3, channels, *size, generator=generator, dtype=torch.float64)
    y = torch.randint(model.readout.out_features, (3,), generator=generator)
    check_exact(model, (reference,), loss_on(x, y), config, seed)


@st.composite
def convolutions(draw):
    """Options of a convolution and an input size on which it has an output."""
    axes = draw(st.integers(1, 3))
    each = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(axes))  # noqa: E731
    kernel, dilation = each(1, 3), each(1, 2)
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    form = draw(st.sampled_from(["valid", "same", "numbers"]))
    stride = (1,) * axes if form == "same" else each(1, 3)
    size = tuple(d * (k - 1) + 1 + extra for k, d, extra in zip(kernel, dilation, each(1, 3), strict=True))
    padding = tuple(min(p, n - 1) for p, n in zip(each(0, 2), size, strict=True)) if form == "numbers" else form
    options = {"kernel_size": kernel, "dilation": dilation, "stride": stride, "padding": padding, "padding_mode": mode}
    return axes, size, options | {"groups": draw(st.sampled_from([1, 2]))}


@QUIET
@given(
    convolution=convolutions(),
    images=st.integers(2, 6),
    bias=st.booleans(),
    norm=st.booleans(),
    method=st.sampled_from(["scu", "ocu"]),
    scale=st.sampled_from(SCALES),
    rows=st.sampled_from(["all", 7, 40]),
    seed=st.integers(0, 99),
)
def test_any_convolution(convolution, images, bias, norm, method, scale, rows, seed):
    axes, size, options = convolution
    torch.manual_seed(seed)
    model = Conv(axes, 2, 4, 3, bias=bias, norm=norm, **options)
    reference = ReferenceConfig(rows="all" if method == "ocu" else rows)
    check(
        model, images, size, TargetSpaceConfig(ridge=0.2, ridge_scale=scale, method=method, reference=reference), seed
    )


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize(("kernel", "dilation"), [(2, 1), (3, 1), (4, 1), (2, 3)])
def test_same_padding(axes, mode, kernel, dilation):
    # even kernels pad one more behind than before
    torch.manual_seed(1)
    model = Conv(axes, 2, 4, 3, kernel_size=kernel, dilation=dilation, padding="same", padding_mode=mode)
    config = TargetSpaceConfig(ridge=0.2, reference=ReferenceConfig(rows="all"))
    check(model, 2 if axes == 3 else 5, (5,) * axes, config)


@pytest.mark.parametrize("wiring", ["plain", "residual"])
@pytest.mark.parametrize("method", ["scu", "ocu"])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("images", [2, 8])  # fewer rows than unknowns, and more
def test_every_scale_and_form(wiring, method, scale, images):
    torch.manual_seed(2)
    model = Conv(2, 6, 4, 3, wiring=wiring, kernel_size=3, padding=1)
    config = TargetSpaceConfig(ridge=0.2, ridge_scale=scale, method=method, reference=ReferenceConfig(rows="all"))
    check(model, images, (4, 4), config)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("rows", [5, 60])  # dual and primal
def test_sampled_rows_and_groups(scale, groups, rows):
    torch.manual_seed(3)
    model = Conv(2, 6, 6, 3, kernel_size=3, stride=2, padding=1, groups=groups)
    config = TargetSpaceConfig(ridge=0.2, ridge_scale=scale, reference=ReferenceConfig(rows=rows))
    check(model, 6, (7, 6), config)
