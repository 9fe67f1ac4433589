"""Small models in the style of well-known ones, each with an input: what a default conversion has to take.

Every function gives (model, arguments of its forward). Weights and inputs are random; nothing is loaded.
"""

# ruff: noqa: D102
from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

WORDS, WIDTH = 11, 8


def matrix(*shape):
    return nn.Parameter(torch.randn(shape) / shape[-2] ** 0.5)


def tokens(samples=6, steps=5):
    return (torch.randint(WORDS, (samples, steps)),)


class Conv1D(nn.Module):
    """GPT-2's: a dense layer with a weight (in, out)."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight, self.bias = matrix(inputs, outputs), nn.Parameter(torch.zeros(outputs))

    def forward(self, x):
        return torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], -1)


def attend(q, k, v, heads=2, bias=0.0):
    q, k, v = (z.unflatten(-1, (heads, -1)).transpose(1, 2) for z in (q, k, v))
    scores = q @ k.mT / q.shape[-1] ** 0.5 + bias
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


class GPT2(nn.Module):
    """Conv1D layers, and a readout that is tied to the table of words."""

    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(5, WIDTH)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(3))
        self.qkv, self.out = Conv1D(WIDTH, 3 * WIDTH), Conv1D(WIDTH, WIDTH)
        self.up, self.down = Conv1D(WIDTH, 4 * WIDTH), Conv1D(4 * WIDTH, WIDTH)
        self.readout = nn.Linear(WIDTH, WORDS, bias=False)
        self.readout.weight = self.words.weight

    def forward(self, x):
        h = self.words(x) + self.places(torch.arange(x.shape[1]))
        h = h + self.out(attend(*self.qkv(self.norms[0](h)).chunk(3, -1)))
        h = h + self.down(functional.gelu(self.up(self.norms[1](h))))
        return self.readout(self.norms[2](h))


class T5(nn.Module):
    """An encoder and a decoder, relative biases in both, layers without bias, a tied readout."""

    def __init__(self):
        super().__init__()
        self.words, self.relative = nn.Embedding(WORDS, WIDTH), nn.Embedding(9, 2)
        names = ["encoder", "decoder", "cross"]
        self.attention = nn.ModuleDict(
            {name: nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in "qkvo") for name in names}
        )
        self.dense = nn.ModuleDict(
            {
                name: nn.ModuleList([nn.Linear(WIDTH, 16, bias=False), nn.Linear(16, WIDTH, bias=False)])
                for name in names
            }
        )
        self.norm = nn.RMSNorm(WIDTH)

    def block(self, name, h, memory, bias):
        q, k, v, o = self.attention[name]
        h = h + o(attend(q(self.norm(h)), k(memory), v(memory), bias=bias))
        up, down = self.dense[name]
        return h + down(functional.gelu(up(self.norm(h))))

    def forward(self, x):
        steps = torch.arange(x.shape[1])
        bias = self.relative(steps[:, None] - steps + 4).movedim(-1, 0)
        memory = self.block("encoder", self.words(x), self.norm(self.words(x)), bias)
        h = self.words(x.roll(1, 1))
        h = self.block("decoder", h, self.norm(h), bias.masked_fill(steps[:, None] < steps, -1e9))
        h = self.block("cross", h, self.norm(memory), 0.0)
        return functional.linear(self.norm(h), self.words.weight)


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


class Albert(nn.Module):
    """One block three times, and a factorised table."""

    def __init__(self):
        super().__init__()
        self.words, self.lift = nn.Embedding(WORDS, 4), nn.Linear(4, WIDTH)
        self.block = nn.TransformerEncoderLayer(WIDTH, 2, 16, 0.0, batch_first=True)
        self.readout = nn.Linear(WIDTH, WORDS)

    def forward(self, x):
        h = self.lift(self.words(x))
        for _ in range(3):
            h = self.block(h)
        return self.readout(h)


class Siamese(nn.Module):
    """One encoder for two images."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 8))
        self.readout = nn.Linear(8, 2)

    def forward(self, a, b):
        return self.readout((self.encoder(a) - self.encoder(b)).square())


class LoRA(nn.Module):
    """A frozen layer with two factors, twice."""

    def __init__(self):
        super().__init__()
        self.base = nn.ModuleList(nn.Linear(5, 5).requires_grad_(False) for _ in range(2))
        self.a = nn.ModuleList(nn.Linear(5, 2, bias=False) for _ in range(2))
        self.b = nn.ParameterList(matrix(5, 2) for _ in range(2))

    def forward(self, x):
        for base, a, b in zip(self.base, self.a, self.b, strict=True):
            x = torch.tanh(base(x) + functional.linear(a(x), b))
        return x


class Mamba(nn.Module):
    """A depthwise convolution along time, and a scan whose step depends on the input."""

    def __init__(self, states=3):
        super().__init__()
        self.enter, self.leave = nn.Linear(WIDTH, 2 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=2, groups=WIDTH)
        self.select, self.step = nn.Linear(WIDTH, 2 * states + 2, bias=False), nn.Linear(2, WIDTH)
        self.log_a, self.skip = nn.Parameter(torch.zeros(WIDTH, states)), nn.Parameter(torch.ones(WIDTH))
        self.readout = nn.Linear(WIDTH, 3)

    def forward(self, x):
        h, gate = self.enter(x).chunk(2, -1)
        h = functional.silu(self.conv(h.mT)[..., : x.shape[1]].mT)
        step, b, c = self.select(h).split([2, 3, 3], -1)
        step = functional.softplus(self.step(step)).unsqueeze(-1)
        decay, state, out = torch.exp(-step * self.log_a.exp()), torch.zeros(len(x), WIDTH, 3).to(x), []
        for t in range(x.shape[1]):
            state = decay[:, t] * state + step[:, t] * b[:, t].unsqueeze(1) * h[:, t].unsqueeze(-1)
            out.append((state * c[:, t].unsqueeze(1)).sum(-1))
        return self.readout(self.leave((torch.stack(out, 1) + self.skip * h) * functional.silu(gate)).mean(1))


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


class StdConv(nn.Conv2d):
    """A convolution with a standardised weight."""

    def forward(self, x):
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return functional.conv2d(x, w, self.bias, self.stride, self.padding)


def images(samples=6, channels=1, size=6):
    return torch.randn(samples, channels, size, size)


def edges():
    return torch.stack([torch.arange(12), (torch.arange(12) * 5 + 1) % 12])


#: name: makes (model, arguments)
MODELS = {
    "GPT-2": lambda: (GPT2(), tokens()),
    "T5": lambda: (T5(), tokens()),
    "Swin": lambda: (Swin(), (images(channels=3, size=8),)),
    "GCN": lambda: (Graph("GCN"), (torch.randn(12, 40), edges())),
    "GAT": lambda: (Graph("GAT"), (torch.randn(12, 40), edges())),
    "SAGE": lambda: (Graph("SAGE"), (torch.randn(12, 40), edges())),
    "ALBERT": lambda: (Albert(), tokens()),
    "Siamese": lambda: (Siamese(), (images(), images())),
    "LoRA": lambda: (LoRA(), (torch.randn(12, 5),)),
    "Mamba": lambda: (Mamba(), (torch.randn(6, 5, WIDTH),)),
    "U-Net": lambda: (UNet(), (images(),)),
    "DCGAN": lambda: (dcgan(), (torch.randn(8, 6),)),
    "neural ODE": lambda: (ODE(), (torch.randn(12, 5),)),
    "cells in a loop": lambda: (Cells(), (torch.randn(6, 4, 4),)),
    "experts": lambda: (Experts(), (torch.randn(12, 5),)),
    "standardised weights": lambda: (
        nn.Sequential(StdConv(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 2)),
        (images(),),
    ),
}
