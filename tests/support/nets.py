"""Small networks for tests: plain, residual and all-to-all shortcut, with norms, in any number of spatial axes."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Dense(nn.Module):
    """Hidden layers of one width, wired as ``wiring`` says, and a linear readout."""

    def __init__(self, inputs=3, width=5, depth=2, outputs=2, *, wiring="plain", bias=True, norm=False, inplace=False):
        super().__init__()
        self.wiring = wiring
        grown = inputs
        self.hidden, self.norms = nn.ModuleList(), nn.ModuleList()
        for index in range(depth):
            fan_in = grown if wiring == "shortcuts" or index == 0 else width
            self.hidden.append(nn.Linear(fan_in, width, bias=bias))
            self.norms.append(nn.BatchNorm1d(width) if norm else nn.Identity())
            grown += width
        self.readout = nn.Linear(grown if wiring == "shortcuts" else width, outputs, bias=bias)
        # an activation in place must not reach targets or saved tensors; leaky, to be smooth almost everywhere
        self.act = nn.LeakyReLU(0.3, inplace=True) if inplace else nn.Tanh()

    def forward(self, x):
        for layer, norm in zip(self.hidden, self.norms, strict=True):
            y = self.act(norm(layer(x)))
            if self.wiring == "residual" and y.shape == x.shape:
                y = x + y
            x = torch.cat([x, y], -1) if self.wiring == "shortcuts" else y
        return self.readout(x)


class Conv(nn.Module):
    """A convolution with the given options, a second one, and a linear readout of the means over space."""

    def __init__(self, axes=2, channels=2, inner=4, outputs=3, *, wiring="plain", bias=True, norm=False, **options):
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
        self.wiring = wiring
        self.first = conv(channels, inner, bias=bias, **options)
        self.norm = nn.GroupNorm(1, inner) if norm else nn.Identity()
        self.second = conv(inner, inner, 1 if wiring == "plain" else 3, padding=int(wiring != "plain"), bias=bias)
        self.readout = nn.Linear(inner, outputs, bias=bias)

    def forward(self, x):
        x = torch.tanh(self.norm(self.first(x)))
        y = self.second(x)
        x = torch.tanh(x + y if self.wiring == "residual" else y)
        return self.readout(x.flatten(2).mean(-1))


class Attending(nn.Module):
    """Attention of a sequence (samples, steps, 4) to itself, and of learned queries to it."""

    def __init__(self, outputs):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(2, 4))
        self.to_itself, self.to_queries = (nn.MultiheadAttention(4, 2, batch_first=True) for _ in range(2))
        self.readout = nn.Linear(8, outputs)

    def forward(self, x):
        x = self.to_itself(x, x, x)[0]
        return self.readout(self.to_queries(self.queries.expand(len(x), -1, -1), x, x)[0].flatten(1))


def loss_on(x, y):
    """Cross-entropy on a batch, as a function of whatever runs the model."""
    return lambda run: functional.cross_entropy(run(x), y)


def moons(rows=200):
    """Two classes that no linear model separates."""
    generator = torch.Generator().manual_seed(0)
    angle = torch.rand(rows, generator=generator) * 6.28
    y = torch.arange(rows) % 2
    radius = 1.0 + y + 0.1 * torch.randn(rows, generator=generator)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 1), y


def dense(**options):
    torch.manual_seed(0)
    return Dense(2, 8, 3, 2, **options)
