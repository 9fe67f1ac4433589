"""Models that apply parts of one parameter, each with a twin whose parts are modules."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

D, PARTS = 4, 3

#: how weights (out, in) are cut out of a parameter, and its shape
CUTS = {
    "chunk": (lambda w: w.chunk(PARTS), (PARTS * D, D)),
    "split": (lambda w: w.split([D] * PARTS), (PARTS * D, D)),
    "split, by a function": (lambda w: torch.split(w, D, 0), (PARTS * D, D)),
    "slices": (lambda w: [w[k * D : (k + 1) * D] for k in range(PARTS)], (PARTS * D, D)),
    "slices of columns": (lambda w: [w[:, k * D : (k + 1) * D].T for k in range(PARTS)], (D, PARTS * D)),
    "chunks of columns": (lambda w: [part.t() for part in torch.chunk(w, PARTS, -1)], (D, PARTS * D)),
    "slices of a transpose": (lambda w: [w.T[k * D : (k + 1) * D] for k in range(PARTS)], (D, PARTS * D)),
    "narrow": (lambda w: [w.narrow(0, k * D, D) for k in range(PARTS)], (PARTS * D, D)),
    "tensor_split": (lambda w: w.tensor_split(PARTS), (PARTS * D, D)),
    "vsplit": (lambda w: torch.vsplit(w, PARTS), (PARTS * D, D)),
    "hsplit": (lambda w: [part.T for part in w.hsplit(PARTS)], (D, PARTS * D)),
    "dsplit": (lambda w: [part.squeeze(-1) for part in w.dsplit(PARTS)], (D, D, PARTS)),
    "unbind of a view": (lambda w: w.view(PARTS, D, D).unbind(0), (PARTS * D, D)),
    "unbind of the middle": (lambda w: w.unbind(1), (D, PARTS, D)),
    "entries": (lambda w: [w[k] for k in range(PARTS)], (PARTS, D, D)),
    "entries, transposed": (lambda w: [w[k].mT for k in range(PARTS)], (PARTS, D, D)),
    "entries from behind": (lambda w: [w[k - PARTS, ...] for k in range(PARTS)], (PARTS, D, D)),
    "select": (lambda w: [w.select(0, k) for k in range(PARTS)], (PARTS, D, D)),
    "iteration": (list, (PARTS, D, D)),
    "slices of one": (lambda w: [w[k : k + 1].squeeze(0) for k in range(PARTS)], (PARTS, D, D)),
    "slices of slices": (lambda w: [w[: 2 * D][:D], w[: 2 * D][D:], w[2 * D :]], (PARTS * D, D)),
    "of their precision": (lambda w: [w[k].to(w.dtype).contiguous().double() for k in range(PARTS)], (PARTS, D, D)),
    "scaled": (lambda w: [w[k] * 0.5 for k in range(PARTS)], (PARTS, D, D)),
}


def in_a_row(model, x):
    for k in range(PARTS):
        x = torch.tanh(model.part(k, x))
    return model.readout(x)


def attention(model, x):
    q, k, v = (model.part(n, x) for n in range(PARTS))
    return model.readout(torch.softmax(q @ k.mT, -1) @ v)


def recurrent(model, x):
    h, outputs = torch.zeros_like(x[:, 0]), []
    for step in x.unbind(1):
        h = torch.tanh(model.part(0, step) + model.part(1, h))
        outputs.append(model.part(2, h))
    return model.readout(torch.stack(outputs, 1))


def gated(model, x):
    """A cell with an update gate, of which all weights act on [input, state] halves."""
    h = torch.zeros_like(x[:, 0])
    for step in x.unbind(1):
        both = torch.cat([step[:, : D // 2], h[:, D // 2 :]], 1)
        update, reset = torch.sigmoid(model.part(0, both)), torch.sigmoid(model.part(1, both))
        h = update * h + (1 - update) * torch.tanh(model.part(2, both * reset))
    return model.readout(h)


def experts(model, x):
    return model.readout(sum(torch.tanh(model.part(k, x)) * x[..., k : k + 1] for k in range(PARTS)))


FORWARDS = {f.__name__: f for f in (in_a_row, attention, recurrent, gated, experts)}


class Cut(nn.Module):
    """Parts of one parameter; biases are parts of another one, or are added by themselves, or there are none."""

    def __init__(self, forward, cut="chunk", biases="own"):
        super().__init__()
        self.run, self.biases = forward, biases
        self.cut, shape = CUTS[cut]
        self.w = nn.Parameter(torch.randn(shape) / D**0.5)
        self.b = None if biases == "none" else nn.Parameter(0.1 * torch.randn(PARTS * D))
        self.readout = nn.Linear(D, 2)

    def bias(self, k):
        return None if self.b is None else self.b.chunk(PARTS)[k]

    def part(self, k, x):
        weight = self.cut(self.w)[k]
        if self.biases == "added":
            return functional.linear(x, weight) + self.bias(k)
        return functional.linear(x, weight, self.bias(k))

    def forward(self, x):
        return self.run(self, x)

    def weights(self):
        """The weights and biases of the parts, and the readout's."""
        found = [*self.cut(self.w)] + ([] if self.b is None else [*self.b.chunk(PARTS)])
        return [t.detach().clone() for t in (*found, *self.readout.parameters())]


class Apart(nn.Module):
    """The same in modules, with the values of a :class:`Cut`."""

    def __init__(self, cut):
        super().__init__()
        self.run, own = cut.run, cut.biases == "own"
        self.w = nn.ModuleList(nn.Linear(D, D, bias=own) for _ in range(PARTS))
        self.b = nn.ParameterList(
            nn.Parameter(cut.bias(k).detach().clone()) for k in range(PARTS) if cut.biases == "added"
        )
        self.readout = nn.Linear(D, 2)
        for k, layer in enumerate(self.w):
            layer.weight = nn.Parameter(cut.cut(cut.w)[k].detach().clone())
            if own:
                layer.bias = nn.Parameter(cut.bias(k).detach().clone())
        self.readout.load_state_dict(cut.readout.state_dict())

    def part(self, k, x):
        return self.w[k](x) + self.b[k] if len(self.b) else self.w[k](x)

    def forward(self, x):
        return self.run(self, x)

    def weights(self):
        """As of a :class:`Cut`."""
        biases = [*self.b] if len(self.b) else [layer.bias for layer in self.w if layer.bias is not None]
        return [t.detach().clone() for t in (*(layer.weight for layer in self.w), *biases, *self.readout.parameters())]


class Parts(nn.Module):
    """Weights and biases that are parts of others: of a fused projection, of a stack, of a cell in a loop."""

    shape, size = (6, 4), 11

    def __init__(self):
        super().__init__()
        self.fused, self.biases = nn.Parameter(torch.randn(12, 4) / 2), nn.Parameter(torch.zeros(12))
        self.stack, self.cell = nn.Parameter(torch.randn(2, 4, 4) / 2), nn.Parameter(torch.randn(4, 8) / 2)
        self.readout = nn.Linear(4, 3)

    def forward(self, x):
        weights = zip(self.fused.chunk(3), self.biases.chunk(3), strict=True)
        q, k, v = (functional.linear(x, w, b) for w, b in weights)
        x = torch.softmax(q @ k.mT, -1) @ v
        for w in self.stack:
            x = torch.tanh(x @ w)
        h = torch.zeros_like(x[:, 0])
        for step in x.unbind(1):
            h = torch.tanh(step @ self.cell[:, :4] + h @ self.cell[:, 4:])
        return self.readout(h)


def pair(forward="in_a_row", cut="chunk", biases="own"):
    """A model with parts, and its twin, in float64."""
    torch.manual_seed(0)
    model = Cut(FORWARDS[forward], cut, biases).double()
    return model, Apart(model).double()


def given(samples, seed=1):
    """Inputs (samples, 5, D)."""
    return torch.randn(samples, 5, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
