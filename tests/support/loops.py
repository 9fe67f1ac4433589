"""Networks with loops: layers whose later inputs follow from what they gave before."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Cell(nn.Module):
    """A recurrent cell of one's own, from a state of zeros: one layer for inputs and state, or two that are added."""

    def __init__(self, joint=True, start=None):
        super().__init__()
        self.joint, self.readout = joint, nn.Linear(8, 2)
        if joint:
            self.cell = nn.Linear(11, 8)
        else:
            self.inputs, self.states = nn.Linear(3, 8), nn.Linear(8, 8, bias=False)
        self.start = None if start is None else nn.Parameter(torch.full((8,), start))

    def forward(self, x):
        h = x.new_zeros(len(x), 8) if self.start is None else self.start.expand(len(x), -1)
        for step in x.unbind(1):
            given = self.cell(torch.cat([step, h], 1)) if self.joint else self.inputs(step) + self.states(h)
            h = torch.tanh(given)
        return self.readout(h)


class Functional(nn.Module):
    """A cell of parameters, which functions apply."""

    def __init__(self):
        super().__init__()
        self.w, self.u = nn.Parameter(torch.randn(3, 8)), nn.Parameter(torch.randn(8, 8) / 3)
        self.readout = nn.Linear(8, 2)

    def forward(self, x):
        h = x.new_zeros(len(x), 8)
        for step in x.unbind(1):
            h = torch.tanh(step @ self.w + functional.linear(h, self.u))
        return self.readout(h)


class Gates(nn.Module):
    """A cell of a list of parameters, of which forward takes a slice, which checks that they are leaves."""

    def __init__(self):
        super().__init__()
        self.gates = nn.ParameterList(torch.randn(11, 8) / 3 for _ in range(3))
        self.readout = nn.Linear(8, 2)

    def forward(self, x):
        h = x.new_zeros(len(x), 8)
        for step in x.unbind(1):
            given = torch.cat([step, h], 1)
            keep, add = (torch.sigmoid(given @ gate) for gate in self.gates[:2])
            h = keep * h + add * torch.tanh(given @ self.gates[2])
        return self.readout(h)


class Stepwise(nn.Module):
    """A recurrent module that is called a step at a time."""

    def __init__(self, kind, start=None, **options):
        super().__init__()
        self.start, self.rnn = start, kind(3, 8, batch_first=True, **options)
        self.readout = nn.Linear(options.get("proj_size", 8), 2)

    def forward(self, x):
        layers = self.rnn.num_layers
        h = None if self.start is None else torch.full((layers, len(x), 8), self.start, dtype=x.dtype)
        for t in range(x.shape[1]):
            y, h = self.rnn(x[:, t : t + 1], h)
        return self.readout(y[:, -1])


class Cells(nn.Module):
    """One cell above the other, and a readout at every step."""

    def __init__(self, kind, bias=True):
        super().__init__()
        cell = getattr(nn, f"{kind}Cell")
        self.first, self.second, self.readout = cell(3, 8, bias=bias), cell(8, 6, bias=bias), nn.Linear(6, 2)

    def forward(self, x):
        below = above = None
        found = []
        for step in x.unbind(1):
            below = self.first(step, below)
            above = self.second(below[0] if isinstance(below, tuple) else below, above)
            found.append(self.readout(above[0] if isinstance(above, tuple) else above))
        return torch.stack(found, 1)


class Modules(nn.Module):
    """The same by a recurrent module for each level."""

    def __init__(self, kind, bias=True):
        super().__init__()
        module = getattr(nn, kind)
        self.first = module(3, 8, bias=bias, batch_first=True)
        self.second, self.readout = module(8, 6, bias=bias, batch_first=True), nn.Linear(6, 2)

    def forward(self, x):
        return self.readout(self.second(self.first(x)[0])[0])


class Translator(nn.Module):
    """An encoder and a decoder of cells, a layer between them, and a decoder that is given its own answers."""

    def __init__(self, greedy=False):
        super().__init__()
        self.greedy = greedy
        self.encoder, self.bridge, self.decoder = nn.GRUCell(3, 6), nn.Linear(6, 5), nn.RNNCell(4, 5)
        self.readout = nn.Linear(5, 4)

    def forward(self, x):
        h = None
        for step in x.unbind(1):
            h = self.encoder(step, h)
        h, given, found = torch.tanh(self.bridge(h)), x.new_zeros(len(x), 4), []
        for _ in range(3):
            h = self.decoder(given, h)
            found.append(self.readout(h))
            given = functional.one_hot(found[-1].argmax(1), 4).to(x) if self.greedy else torch.tanh(found[-1])
        return torch.stack(found, 1)


class Attending(nn.Module):
    """A cell that attends to the inputs at every step."""

    def __init__(self):
        super().__init__()
        self.keys, self.cell, self.readout = nn.Linear(3, 4), nn.LSTMCell(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        keys, h, c = self.keys(x), x.new_zeros(len(x), 4), x.new_zeros(len(x), 4)
        for _ in range(3):
            weights = torch.softmax((keys @ h.unsqueeze(2)).squeeze(2), 1)
            h, c = self.cell((weights.unsqueeze(1) @ keys).squeeze(1), (h, c))
        return self.readout(h)


class Truncated(nn.Module):
    """A state that is detached half-way."""

    def __init__(self):
        super().__init__()
        self.cell, self.readout = nn.RNNCell(3, 8), nn.Linear(8, 2)

    def forward(self, x):
        h = None
        for t, step in enumerate(x.unbind(1)):
            h = self.cell(step, h)
            h = h.detach() if t == 1 else h
        return self.readout(h)


class Flow(nn.Module):
    """A layer over time, which it is given, or with features that begin at zero, or with its start."""

    def __init__(self, time=False, added=0, doubled=False):
        super().__init__()
        self.time, self.added, self.doubled = time, added, doubled
        width = 3 + added
        self.change = nn.Linear(width * (2 if doubled else 1) + time, width)
        self.readout = nn.Linear(width, 2)

    def forward(self, x):
        start = x = torch.cat([x[:, 0], x.new_zeros(len(x), self.added)], 1)
        for step in range(3):
            given = [x, *[start] * self.doubled, *[torch.full_like(x[:, :1], step / 3)] * self.time]
            x = x + torch.tanh(self.change(torch.cat(given, 1)))
        return self.readout(x)


class Grid(nn.Module):
    """A convolution of images and of a state of zeros."""

    def __init__(self):
        super().__init__()
        self.cell, self.readout = nn.Conv1d(4, 3, 3, padding=1), nn.Linear(3, 2)

    def forward(self, x):
        h = x.new_zeros(len(x), 3, x.shape[1])
        for _ in range(3):
            h = torch.tanh(self.cell(torch.cat([x[..., :1].mT, h], 1)))
        return self.readout(h.mean(2))


class InPlace(nn.Module):
    """A state that is one tensor, written to at every step."""

    def __init__(self):
        super().__init__()
        self.cell, self.readout = nn.Linear(11, 8), nn.Linear(8, 2)

    def forward(self, x):
        states = x.new_zeros(x.shape[1] + 1, len(x), 8)
        for t, step in enumerate(x.unbind(1)):
            states[t + 1] = torch.tanh(self.cell(torch.cat([step, states[t].clone()], 1)))
        return self.readout(states[-1])


#: each with the names of the layers that are solved from all uses
LOOPS = {
    "cell of one layer": (Cell, {"cell"}),
    "cell of two layers": (lambda: Cell(joint=False), {"inputs", "states"}),
    "cell from a learned state": (lambda: Cell(start=0.3), {"cell"}),
    "cell of parameters": (Functional, {"w", "u"}),
    "cell of a list": (Gates, {"gates.0", "gates.1", "gates.2"}),
    "RNN by steps": (lambda: Stepwise(nn.RNN), {"rnn.l0"}),
    "LSTM by steps": (lambda: Stepwise(nn.LSTM), {"rnn.l0"}),
    "GRU by steps": (lambda: Stepwise(nn.GRU), {"rnn.l0"}),
    "GRU by steps from a constant": (lambda: Stepwise(nn.GRU, 0.5), {"rnn.l0"}),
    "stack by steps": (lambda: Stepwise(nn.LSTM, num_layers=2), {"rnn.l0", "rnn.l1"}),
    "RNN cells": (lambda: Cells("RNN"), {"first", "second", "readout"}),
    "LSTM cells": (lambda: Cells("LSTM"), {"first", "second", "readout"}),
    "GRU cells": (lambda: Cells("GRU"), {"first", "second", "readout"}),
    "GRU cells without biases": (lambda: Cells("GRU", bias=False), {"first", "second", "readout"}),
    "translator": (Translator, {"encoder", "decoder", "readout"}),
    "attention": (Attending, {"cell"}),
    "truncated": (Truncated, {"cell"}),
    "time": (lambda: Flow(time=True), {"change"}),
    "added features": (lambda: Flow(added=2), {"change"}),
    "the same twice": (lambda: Flow(doubled=True), {"change"}),
    "convolutional cell": (Grid, {"cell"}),
    "state in place": (InPlace, {"cell"}),
}
