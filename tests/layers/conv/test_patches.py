"""The patch matrix as an operator equals explicit patches, and explicit patches times weights equal the convolution."""

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from benchmarks import literal
from ts_lightning.layers.conv import patches
from ts_lightning.layers.conv.patches import Geometry, PatchRows

QUIET = settings(max_examples=300, deadline=None, derandomize=True, database=None)
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@st.composite
def cases(draw):
    """A convolution of any form and an input for it."""
    axes = draw(st.integers(1, 3))

    def each(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(axes))

    kernel, dilation, size = each(1, 4), each(1, 3), each(1, 7)
    form = draw(st.sampled_from(["valid", "same", "numbers"]))
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    padding = each(0, 4) if form == "numbers" else form
    stride = (1,) * axes if form == "same" else each(1, 3)
    groups = draw(st.sampled_from([1, 2, 3]))
    layer = CONVS[axes - 1](
        2 * groups, 3 * groups, kernel, stride, padding, dilation, groups, draw(st.booleans()), mode, dtype=torch.double
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    x = torch.randn(draw(st.integers(1, 4)), 2 * groups, *size, generator=generator, dtype=torch.float64)
    try:
        z = layer(x).detach()  # whatever the layer itself refuses is no case
    except RuntimeError:
        assume(False)
    return layer, x, z


def permuted(geometry, layer, a):
    """Literal columns (channel, offset) in the order (offset, channel)."""
    offsets = layer.weight[0, 0].numel()
    body, ones = a[..., : a.shape[-1] - (layer.bias is not None)], a[..., a.shape[-1] - (layer.bias is not None) :]
    return torch.cat([body.unflatten(-1, (-1, offsets)).transpose(-1, -2).flatten(-2), ones], -1)


@QUIET
@given(case=cases())
def test_explicit_patches_times_weights_are_the_convolution(case):
    layer, x, z = case
    geometry, a = Geometry.of(layer), literal.matrix(x, layer)
    a = permuted(geometry, layer, a)
    w = geometry.to_matrix(layer.weight, layer.bias)
    torch.testing.assert_close(a @ w, geometry.rows(z), rtol=1e-10, atol=1e-12)
    padded = geometry.pad(x)
    assert geometry.outputs(padded) == z.shape[2:]
    torch.testing.assert_close(geometry.convolve(padded, layer.weight, layer.bias), z, rtol=1e-12, atol=1e-12)
    weight, bias = geometry.to_weight(w, layer.bias is not None)
    assert torch.equal(weight, layer.weight)
    assert bias is None or torch.equal(bias, layer.bias)


@QUIET
@given(case=cases(), chunk=st.sampled_from([1, 500, 2**23]))
def test_gram_matrix_and_column_sums(case, chunk):
    layer, x, _ = case
    geometry, bias = Geometry.of(layer), layer.bias is not None
    a = permuted(geometry, layer, literal.matrix(x, layer))
    kept = patches._CHUNK
    patches._CHUNK = chunk
    try:
        gram, sums = geometry.moments(geometry.pad(x), bias, torch.float64)
    finally:
        patches._CHUNK = kept
    torch.testing.assert_close(sums, a.sum(1), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gram.tril(), (a.mT @ a).tril(), rtol=1e-10, atol=1e-10)


@QUIET
@given(case=cases(), data=st.data())
def test_chosen_rows_and_their_gradient(case, data):
    layer, x, z = case
    geometry = Geometry.of(layer)
    total = z.shape[0] * z[0, 0].numel()
    chosen = data.draw(st.none() | st.lists(st.integers(0, total - 1), min_size=1, max_size=6, unique=True))
    rows = None if chosen is None else torch.tensor(chosen)
    a = permuted(geometry, layer, literal.matrix(x.requires_grad_(), layer))
    a = a if rows is None else a[:, rows]
    found = PatchRows(geometry, geometry.pad(x).detach(), rows).gather(geometry.pad(x), layer.bias is not None)
    assert torch.equal(found, a)
    gradient = torch.randn(a.shape, generator=torch.Generator().manual_seed(0), dtype=a.dtype)
    (expected,) = torch.autograd.grad(a, x, gradient)
    torch.testing.assert_close(torch.autograd.grad(found, x, gradient)[0], expected, rtol=1e-12, atol=1e-12)


@QUIET
@given(case=cases())
def test_spread_sums_over_the_windows_that_see_an_entry(case):
    layer, x, _ = case
    geometry = Geometry.of(layer)
    x = geometry.pad(x).requires_grad_()
    a = PatchRows(geometry, x.detach(), None).gather(x, bias=False)
    gain = torch.randn(a.shape[0], a.shape[2], generator=torch.Generator().manual_seed(0), dtype=a.dtype)
    # d/dx of sum over rows of gain * A, for one image
    (expected,) = torch.autograd.grad(a, x, gain.unsqueeze(1).expand_as(a))
    found = geometry.spread(gain, x.detach()).expand_as(x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
