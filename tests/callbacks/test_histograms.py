"""Histograms of targets and weights, against NumPy's."""

import pytest
import torch

from tests.support.fits import build, fit
from ts_lightning.callbacks.histograms import histograms


def test_histograms_against_numpy():
    numpy = pytest.importorskip("numpy")
    model = build()
    fit(model)
    space = model.target_space_engine
    for layer in space.layers:
        targets = (space.targets[layer.name].detach() * layer.unit).float()
        weights = torch.cat([p.detach().flatten() for p in layer.parameters]).float()
        for kind, values in (("targets", targets), ("weights", weights)):
            counts, edges = histograms(space)[kind, layer.name]
            expected, where = numpy.histogram(values.numpy(), 64)
            assert counts.sum() == values.numel()
            assert numpy.abs(counts.numpy() - expected).sum() <= 2  # one may lie on an edge
            numpy.testing.assert_allclose(edges.numpy(), where, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        space.targets["net.0"].fill_(1.0)
    counts, edges = histograms(space)["targets", "net.0"]
    assert counts.sum() == space.targets["net.0"].numel()
    assert edges[0] < space.units["net.0"] < edges[-1]
