"""Small models in the style of well-known ones for images, graphs, sets and tables: what a conversion has to take.

Every entry of MODELS makes one with its input. Weights and inputs are random; nothing is loaded.
"""

# ruff: noqa: D102
from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from benchmarks.zoo import example
from benchmarks.zoo.example import Example
from benchmarks.zoo.own_language import WIDTH, attend, matrix


class Swin(nn.Module):
    """Windows of patches, whose qkv is reached through a function, and a table of relative biases."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 2, 2)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.relative = nn.Parameter(torch.zeros(2, 4, 4))
        self.mlp = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 16), nn.GELU(), nn.Linear(16, WIDTH))
        self.readout = nn.Linear(WIDTH, 3)

    def forward(self, x):
        h = self.patches(x).unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).permute(0, 2, 4, 3, 5, 1)
        samples, h = len(h), h.reshape(-1, 4, WIDTH)
        qkv = functional.linear(h, self.qkv.weight, self.qkv.bias)
        mixed = attend(*qkv.chunk(3, -1), bias=self.relative)
        h = h + functional.linear(mixed, self.out.weight, self.out.bias)
        return self.readout((h + self.mlp(h)).view(samples, -1, WIDTH).mean(1))


class GraphLinear(nn.Module):
    """PyTorch Geometric's: no subclass of nn.Linear."""

    def __init__(self, inputs, outputs, bias=False):
        super().__init__()
        self.weight = matrix(outputs, inputs)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x):
        return functional.linear(x, self.weight, self.bias)


class Graph(nn.Module):
    """Two layers of a graph network on features and edges: ``kind`` is GCN, GAT or SAGE."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        sizes = ((40, 32), (32, 3))
        self.lin = nn.ModuleList(GraphLinear(*size) for size in sizes)
        self.own = nn.ModuleList(GraphLinear(*size, bias=True) for size in sizes) if kind == "SAGE" else None
        self.bias = nn.ParameterList(torch.zeros(out) for _, out in sizes)
        self.att = nn.ParameterList(torch.randn(2, out) for _, out in sizes) if kind == "GAT" else None

    def step(self, n, x, edges):
        source, to = edges
        h = self.lin[n](x)
        messages, counts = h[source], torch.bincount(to, minlength=len(x)).clamp_min(1).unsqueeze(1)
        if self.att is not None:
            scores = ((h[source] * self.att[n][0] + h[to] * self.att[n][1]).sum(-1, keepdim=True)).tanh().exp()
            sums = torch.zeros_like(h[:, :1]).index_add(0, to, scores)
            messages = messages * scores / sums[to] * counts[to]
        z = torch.zeros_like(h).index_add(0, to, messages) / counts + self.bias[n]
        return z if self.own is None else z + self.own[n](x)

    def forward(self, x, edges):
        return self.step(1, torch.tanh(self.step(0, x, edges)), edges)


class Siamese(nn.Module):
    """One encoder for two images."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 8))
        self.readout = nn.Linear(8, 2)

    def forward(self, a, b):
        return self.readout((self.encoder(a) - self.encoder(b)).square())


class UNet(nn.Module):
    """Down and up with a shortcut."""

    def __init__(self):
        super().__init__()
        self.first, self.down = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.up, self.last = nn.ConvTranspose2d(8, 4, 2, stride=2), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        first = torch.tanh(self.first(x))
        return self.last(torch.cat([first, torch.tanh(self.up(torch.tanh(self.down(first))))], 1))


def dcgan():
    up = nn.ConvTranspose2d
    layers = [up(6, 8, 2, bias=False), nn.BatchNorm2d(8), nn.Tanh(), up(8, 4, 4, 2, 1, bias=False), nn.BatchNorm2d(4)]
    return nn.Sequential(nn.Unflatten(1, (6, 1, 1)), *layers, nn.Tanh(), up(4, 1, 4, 2, 1, bias=False))


class ODE(nn.Module):
    """A vector field, integrated by Euler's steps."""

    def __init__(self):
        super().__init__()
        self.field, self.readout = nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 5)), nn.Linear(5, 2)

    def forward(self, x):
        for _ in range(4):
            x = x + 0.25 * self.field(x)
        return self.readout(x)


class Cells(nn.Module):
    """A loop over a cell."""

    def __init__(self):
        super().__init__()
        self.enter, self.cell, self.readout = nn.Linear(4, 6), nn.LSTMCell(6, 5), nn.Linear(5, 2)

    def forward(self, x):
        state = None
        for t in range(x.shape[1]):
            state = self.cell(torch.tanh(self.enter(x[:, t])), state)
        return self.readout(state[0])


class Experts(nn.Module):
    """Experts in one tensor, all of them weighted by a gate."""

    def __init__(self):
        super().__init__()
        self.enter, self.gate, self.readout = nn.Linear(5, 6), nn.Linear(6, 3), nn.Linear(6, 2)
        self.experts = matrix(3, 6, 6)

    def forward(self, x):
        h = torch.tanh(self.enter(x))
        mixed = torch.bmm(h.expand(3, *h.shape), self.experts) * self.gate(h).softmax(-1).T.unsqueeze(-1)
        return self.readout(torch.tanh(mixed.sum(0)))


class Equalised(nn.Module):
    """Equalised learning rates, as in ProGAN and StyleGAN: normal weights, times a constant at every call."""

    def __init__(self):
        super().__init__()
        self.down, self.mix = nn.Parameter(torch.randn(4, 1, 3, 3)), nn.Parameter(torch.randn(8, 64))
        self.readout = nn.Parameter(torch.randn(2, 8))
        self.register_buffer("gain", torch.tensor(3 / 4))

    def forward(self, x):
        h = torch.tanh(functional.conv2d(x, self.down * self.gain))
        h = torch.tanh(functional.linear(h.flatten(1), self.mix / 8))
        return functional.linear(h, self.readout * 8**-0.5)


class StdConv(nn.Conv2d):
    """A convolution with a standardised weight."""

    def forward(self, x):
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return functional.conv2d(x, w, self.bias, self.stride, self.padding)


def edges():
    return torch.stack([torch.arange(12), (torch.arange(12) * 5 + 1) % 12])


class Routed(nn.Module):
    """Experts as modules, each on the samples that the gate sends to it."""

    def __init__(self):
        super().__init__()
        self.gate, self.readout = nn.Linear(5, 3), nn.Linear(6, 2)
        self.experts = nn.ModuleList(nn.Linear(5, 6) for _ in range(3))

    def forward(self, x):
        weights, out = self.gate(x).softmax(-1), x.new_zeros(len(x), 6)
        chosen = weights.argmax(-1)
        for n, expert in enumerate(self.experts):
            at = (chosen == n).nonzero().squeeze(1)
            out = out.index_add(0, at, weights[at, n, None] * torch.tanh(expert(x[at])))
        return self.readout(out)


class VAE(nn.Module):
    """An encoder of means and variances, a sample, a decoder."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(12, 8), nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 12))

    def forward(self, x):
        mean, spread = self.encoder(x).chunk(2, -1)
        return self.decoder(mean + torch.exp(spread) * torch.randn_like(mean)), mean, spread


class Sets(nn.Module):
    """DeepSets: every member alone, their mean, and a readout."""

    def __init__(self):
        super().__init__()
        self.member, self.readout = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 6)), nn.Linear(6, 2)

    def forward(self, x):
        return self.readout(self.member(x).mean(1))


class Table(nn.Module):
    """Columns of numbers and of categories."""

    def __init__(self):
        super().__init__()
        self.kinds = nn.ModuleList(nn.Embedding(4, 3) for _ in range(2))
        self.norm = nn.BatchNorm1d(5)
        self.body = nn.Sequential(nn.Linear(11, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, numbers, kinds):
        looked_up = [table(kinds[:, n]) for n, table in enumerate(self.kinds)]
        return self.body(torch.cat([self.norm(numbers), *looked_up], -1))


class Pairs(nn.Module):
    """A bilinear form of two encoded inputs."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.form = nn.Linear(4, 3), nn.Linear(5, 4), nn.Bilinear(3, 4, 2)

    def forward(self, a, b):
        return self.form(torch.tanh(self.left(a)), torch.tanh(self.right(b)))


def images(channels=1, size=6):
    return example.images(6, channels, size)


def normed():
    layers = [nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 4, 3)), nn.Tanh(), nn.Flatten(), nn.Linear(16, 2)]
    return nn.Sequential(*layers)


MODELS = {
    "Swin": lambda: Example(Swin(), (images(channels=3, size=8),)),
    "GCN": lambda: Example(Graph("GCN"), (torch.randn(12, 40), edges())),
    "GAT": lambda: Example(Graph("GAT"), (torch.randn(12, 40), edges())),
    "SAGE": lambda: Example(Graph("SAGE"), (torch.randn(12, 40), edges())),
    "Siamese": lambda: Example(Siamese(), (images(), images())),
    "U-Net": lambda: Example(UNet(), (images(),)),
    "DCGAN": lambda: Example(dcgan(), (torch.randn(8, 6),)),
    "neural ODE": lambda: Example(ODE(), (torch.randn(12, 5),)),
    "cells in a loop": lambda: Example(Cells(), (torch.randn(6, 4, 4),)),
    "experts": lambda: Example(Experts(), (torch.randn(12, 5),)),
    "equalised rates": lambda: Example(Equalised(), (images(),)),
    "routed experts": lambda: Example(Routed(), (torch.randn(12, 5),)),
    "VAE": lambda: Example(VAE(), (torch.randn(12, 12),)),
    "DeepSets": lambda: Example(Sets(), (torch.randn(8, 4, 3),)),
    "tabular": lambda: Example(Table(), (torch.randn(12, 5), torch.randint(4, (12, 2)))),
    "Bilinear": lambda: Example(Pairs(), (torch.randn(12, 4), torch.randn(12, 5))),
    "weight norm": lambda: Example(normed(), (torch.randn(6, 2, 6),)),
    "standardised weights": lambda: Example(
        nn.Sequential(StdConv(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 2)), (images(),)
    ),
}
