"""The "auto" ridge of convolutions that are solved from sampled rows, against eigenvalues of their Gram matrix."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from ts_lightning import ReferenceConfig, TargetSpace, TargetSpaceConfig
from ts_lightning.layers.conv.transposed import ConvTransposeTargets


class ByFunction(nn.Module):
    """A convolution whose weight a function applies."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 4, 3))

    def forward(self, x):
        return functional.conv1d(x, self.weight)


KINDS = {
    "one dimension": (lambda: nn.Conv1d(4, 6, 3), (4, 40)),
    "two dimensions": (lambda: nn.Conv2d(4, 6, 3, padding=1), (4, 9, 9)),
    "three dimensions": (lambda: nn.Conv3d(2, 6, 2), (2, 5, 5, 5)),
    "no bias": (lambda: nn.Conv2d(4, 6, 3, bias=False), (4, 9, 9)),
    "pointwise, strided": (lambda: nn.Conv2d(8, 6, 1, stride=2), (8, 12, 12)),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4), (4, 9, 9)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), (4, 9, 9)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3), (4, 9, 9)),
    "by a function": (ByFunction, (4, 40)),
}


def patches(layer, x):
    """A, of all groups."""
    if isinstance(layer, ConvTransposeTargets):
        x = functional.pad(x, (2, 2, 2, 2))  # of a kernel of 3, stride 1
    return layer.patches.gather(layer.geometry.pad(x), layer.bias is not None)


@pytest.mark.parametrize("rows", [200, 400])
@pytest.mark.parametrize("scale", ["variance", "mean"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_half_the_mean_eigenvalue(kind, scale, rows):
    make, shape = KINDS[kind]
    x = torch.randn(20, *shape) + 1
    config = TargetSpaceConfig(ridge_scale=scale, reference=ReferenceConfig(rows=rows))
    (layer,) = TargetSpace(make(), x, config).layers
    a = patches(layer, x)
    centred = (a - a.mean(-2, keepdim=True) if scale == "variance" else a).double()
    values = torch.linalg.eigvalsh(centred.mT @ centred)
    u = layer.solver.scale.measure(a.square().sum(-2), a.mean(-2), rows)
    assert layer.solver.ridge * u.flatten() == pytest.approx(values.mean(-1).flatten() / 2, rel=1e-4)
