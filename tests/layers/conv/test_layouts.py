"""The layout of the reference batch: channels last where that is fastest, but for what oneDNN cannot run in it."""

import pytest
import torch
from torch import nn

from ts_lightning import TargetSpace


@pytest.mark.parametrize(("channels", "kernel", "last"), [(3, 1, False), (3, 3, True), (8, 1, True)])
def test_strided_pointwise_convolutions_of_few_channels_keep_the_layout(channels, kernel, last):
    """Their backward pass wrote beside its memory and ended the process (RepVGG's stem, torch 2.14 on AMD EPYC)."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(channels, 8, kernel, stride=2, bias=False), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 2))
    x, seen = torch.randn(6, channels, 16, 16), []

    class Seen(nn.Module):
        def forward(self, x):
            seen.append(x.is_contiguous(memory_format=torch.channels_last))
            return x

    space = TargetSpace(nn.Sequential(Seen(), model), x)
    space.solve()
    assert seen[-1] is last


def test_dropout_ahead_of_a_transposed_convolution():
    """Its noise is on the columns of A, in x kernel, and not on the weight's second dimension."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 6, 3), nn.Dropout(0.2), nn.ConvTranspose2d(6, 3, 3)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(108, 2))
    space = TargetSpace(model, torch.randn(9, 2, 6, 6))
    layer = next(layer for layer in space.layers if layer.name == "2")
    noise = layer.solver.noise
    assert noise.tolist() == pytest.approx([0.25] * 54 + [0.0])
    model(torch.randn(4, 2, 6, 6)).sum().backward()
    assert space.pullback()
