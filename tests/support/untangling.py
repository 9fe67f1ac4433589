"""Small models of every family for untangling, and the steps that their spaces are taken through."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.nets import Attending, Conv, Dense
from ts_lightning import ReferenceConfig, TargetSpace, TargetSpaceConfig, register_layer
from ts_lightning.layers.linear import LinearTargets

CONFIG = TargetSpaceConfig(step_scale=3.0)


class Recurrent(nn.Module):
    def __init__(self, cell, **options):
        super().__init__()
        self.cell = cell(3, 4, batch_first=True, **options)
        self.readout = nn.Linear(options.get("proj_size", 4) * (1 + cell_is_two(options)), 2)

    def forward(self, x):
        return self.readout(self.cell(x)[0][:, -1])


def cell_is_two(options):
    return bool(options.get("bidirectional"))


class Applied(nn.Module):
    """A weight (in, out) that a function applies."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(5, 4) / 2), nn.Parameter(torch.zeros(4))

    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight)


class Pairs(nn.Module):
    """Products of an input with its tanh."""

    def __init__(self):
        super().__init__()
        self.pair, self.readout = nn.Bilinear(3, 3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.readout(torch.tanh(self.pair(x, torch.tanh(x))))


class Alike(nn.Module):
    """Dense layers of one shape, the last of which is in no loss."""

    def __init__(self, bias=True):
        super().__init__()
        self.first = nn.Linear(3, 5, bias=bias)
        self.inner = nn.ModuleList([nn.Linear(5, 5, bias=bias) for _ in range(3)])
        self.out = nn.Linear(5, 2)
        self.aside = nn.Linear(5, 5, bias=bias)

    def forward(self, x):
        h = self.first(x).tanh()
        for layer in self.inner:
            h = layer(h).tanh()
        self.aside(h)
        return self.out(h)


class Twice(nn.Module):
    """A layer that is used twice."""

    def __init__(self):
        super().__init__()
        self.inner, self.readout = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.readout(torch.tanh(self.inner(torch.tanh(self.inner(x)))))


class Doubled(nn.Linear):
    """A stranger's layer, which applies twice its weight."""

    def forward(self, x):
        return functional.linear(x, 2 * self.weight, self.bias)


class DoubledTargets(LinearTargets):
    def pack(self, w):
        weight, bias = super().pack(w)
        return [weight / 2, bias]

    def unpack(self, values):
        return super().unpack([2 * values[0], values[1]])

    def apply(self, x, weight, bias):
        return super().apply(x, 2 * weight, bias)


register_layer(Doubled, DoubledTargets)


def transposed(**options):
    return nn.Sequential(
        nn.ConvTranspose2d(2, 2, 3, **options), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8, 2)
    )


def rows(value):
    return replace(CONFIG, reference=ReferenceConfig(rows=value))


#: model, shape of a sample, samples of the reference batch, config
CASES = {
    "dense": (lambda: Dense(3, 5, 3), (3,), 20, CONFIG),
    "dense without bias": (lambda: Dense(3, 5, 3, bias=False), (3,), 20, CONFIG),
    "dense, dual": (lambda: Dense(12, 11, 3), (12,), 7, CONFIG),
    "dense, rows": (lambda: Dense(3, 5, 3), (3,), 20, rows(9)),
    "dense, optimistic": (lambda: Dense(3, 5, 3), (3,), 20, replace(CONFIG, method="ocu")),
    **{
        f"dense, {scale}, {size}": (lambda: Dense(8, 7, 2), (8,), size, replace(CONFIG, ridge_scale=scale))
        for scale in ("absolute", "mean", "feature")
        for size in (20, 5)
    },
    "conv": (lambda: Conv(inner=4), (2, 6, 6), 6, rows(60)),
    "conv, dual": (lambda: Conv(inner=4), (2, 6, 6), 6, rows(10)),
    "conv, groups": (lambda: Conv(inner=4, kernel_size=3, groups=2), (2, 6, 6), 6, rows(60)),
    "conv, all rows": (lambda: Conv(inner=4, kernel_size=3, padding=1), (2, 6, 6), 6, rows("all")),
    "conv, all rows, groups": (lambda: Conv(inner=4, kernel_size=3, groups=2), (2, 6, 6), 6, rows("all")),
    "conv, all rows, dual": (lambda: Conv(inner=4, kernel_size=5), (2, 6, 6), 1, rows("all")),
    **{
        name: (build, (steps, 3), size, replace(rows(kept), ridge_scale="absolute"))
        for name, build, steps, size, kept in (
            ("rnn", lambda: Recurrent(nn.RNN), 6, 20, "auto"),
            ("lstm", lambda: Recurrent(nn.LSTM, num_layers=2), 6, 20, "auto"),
            ("lstm, rows", lambda: Recurrent(nn.LSTM, bidirectional=True), 6, 20, 60),
            ("gru", lambda: Recurrent(nn.GRU), 6, 20, "auto"),
            ("gru, dual", lambda: Recurrent(nn.GRU), 3, 2, "auto"),
            ("gru without bias", lambda: Recurrent(nn.GRU, bias=False), 6, 20, "auto"),
        )
    },
    "attention": (lambda: Attending(2), (5, 4), 12, CONFIG),
    "transposed": (lambda: transposed(stride=2), (2, 4, 4), 6, rows(60)),
    "transposed, all rows": (lambda: transposed(groups=2, padding=1), (2, 4, 4), 6, rows("all")),
    "bilinear": (Pairs, (3,), 20, CONFIG),
    "a function's": (
        lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), Applied(), nn.Tanh(), nn.Linear(4, 2)),
        (3,),
        20,
        CONFIG,
    ),
    "alike": (Alike, (3,), 20, CONFIG),
    "alike without bias": (lambda: Alike(bias=False), (3,), 20, CONFIG),
    "alike, dual": (Alike, (3,), 4, CONFIG),
    "used twice": (Twice, (3,), 20, CONFIG),
    "a stranger's": (lambda: nn.Sequential(Doubled(3, 5), nn.Tanh(), Doubled(5, 2)), (3,), 20, CONFIG),
}
#: likewise; its two systems, one behind the other, are in no formula of ``test_kept_maps.py``
PROJECTED = {"lstm, projected": (lambda: Recurrent(nn.LSTM, proj_size=2, num_layers=2), (6, 3), 20, CONFIG)}
for name in ("conv", "conv, dual"):
    CASES[name] = (lambda: Conv(inner=4, kernel_size=3), *CASES[name][1:])


def made(case, untangle, dtype=torch.float64, seed=0, **changes):
    build, shape, size, config = {**CASES, **PROJECTED}[case]
    torch.manual_seed(seed)
    model = build().to(dtype)
    x = torch.randn(size, *shape, dtype=dtype)
    return model, TargetSpace(model, x, replace(config, untangle=untangle, **changes)), x


def move(space, generator, by=0.1):
    with torch.no_grad():
        for target in space.targets.values():
            noise = torch.randn(target.shape, generator=generator, dtype=target.dtype)
            target.add_(by * noise)


def step(model, space, optimizer, x):
    loss = functional.cross_entropy(model(x), torch.arange(len(x)) % 2)
    optimizer.zero_grad()
    loss.backward()
    space.pullback()
    optimizer.step()
    space.solve()
    return float(loss.detach())


def solved(space):
    return [p for layer in space.layers for p in layer.parameters]


def pulled_back(space, gradients):
    """What is pulled back of these gradients on the weights, for all that is trained."""
    for parameter, gradient in zip(solved(space), gradients, strict=True):
        parameter.grad = gradient.clone()
    space.pullback()
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in space.parameters()]


def weights(space):
    return {layer.name: [p.detach().clone() for p in layer.parameters] for layer in space.layers}


def inputs_of(space):
    """Each layer's input in a reference pass with the weights of now."""
    seen = {}

    def visit(layer, x):
        seen[layer.name] = x
        return layer.solve(x, space.targets[layer.name])

    with torch.no_grad():
        space.cascade.reference.walk(visit, None, set())
    return seen


def found_by(model, space, x):
    """The gradients that arrive on the weights, and those that are pulled back, by layer."""
    functional.cross_entropy(model(x), torch.arange(len(x)) % 2).backward()
    arrived = {
        layer.name: [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in layer.parameters]
        for layer in space.layers
    }
    space.pullback()
    return arrived, {
        name: torch.zeros_like(t) if t.grad is None else t.grad.clone() for name, t in space.targets.items()
    }


class Products(TorchDispatchMode):
    """Counts products by the shape of their left side."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in (torch.ops.aten.bmm, torch.ops.aten.mm):
            self.found[tuple(args[0].shape)] += 1
        return function(*args, **(kwargs or {}))


def pulled_in_parts(model, space, x):
    """What the targets get of one loss whole, and of its parts, each pulled back when it comes; by layer."""
    totals = []
    for parts in (1, 2):
        for target in space.targets.values():
            target.grad = None
        for part in x.chunk(parts):
            model(part).square().sum().backward()
            space.pullback(keep=parts == 2)
        totals.append({name: t.grad.clone() for name, t in space.targets.items() if t.grad is not None})
        space.cascade.pulled.clear()
        space.solve()
    return totals
