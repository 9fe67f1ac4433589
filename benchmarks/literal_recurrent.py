"""Recurrent layers in target space written down literally: one sequence and one step at a time, and a dense solve.

Shares nothing with the package but the order of its targets.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence


class Layout:
    """How a module's tensors hold sequences: steps first, samples first, or packed."""

    def __init__(self, module, input):
        self.packed = input if isinstance(input, PackedSequence) else None
        self.axis = 0 if module.batch_first else 1  # of the samples

    def sequences(self, x: Tensor) -> list[Tensor]:
        """One (length, ...) for each sample."""
        if self.packed is None:
            return list(x.unbind(self.axis))
        padded, lengths = pad_packed_sequence(PackedSequence(x, self.packed.batch_sizes), batch_first=True)
        return [sequence[:length] for sequence, length in zip(padded, lengths.tolist(), strict=True)]

    def joined(self, sequences: list[Tensor]) -> Tensor:
        """The inverse."""
        return torch.stack(sequences, self.axis) if self.packed is None else pack_sequence(sequences).data


def cell(module, z, h, c, forget):
    """The state after a step with pre-activations ``z``."""
    if isinstance(module, nn.RNN):
        return (torch.tanh(z) if module.nonlinearity == "tanh" else torch.relu(z)), c
    a, b, d, e = z.chunk(4)
    if isinstance(module, nn.LSTM):
        c = torch.sigmoid(b + forget) * c + torch.sigmoid(a) * torch.tanh(d)
        return torch.sigmoid(e) * torch.tanh(c), c
    keep = torch.sigmoid(b)
    return keep * h + (1 - keep) * torch.tanh(d + torch.sigmoid(a) * e), c


def systems(module, x, h):
    """The rows of A that a step contributes."""
    one = [x.new_ones(1)] if module.bias else []
    whole = torch.cat([x, h, *one])
    return [whole, torch.cat([x, *one]), torch.cat([h, *one])] if isinstance(module, nn.GRU) else [whole]


def widths(module):
    """Columns of the targets of each system."""
    n = module.hidden_size
    return {nn.RNN: [n], nn.LSTM: [4 * n], nn.GRU: [2 * n, n, n]}[type(module)]


def parameters(module, solutions, inputs, forget):
    """Values of weight_ih, weight_hh, bias_ih, bias_hh."""
    n = module.hidden_size
    w = solutions[0]
    x, h, b = w[:inputs], w[inputs : inputs + n], w[inputs + n :]
    free = torch.zeros_like(b)
    if isinstance(module, nn.GRU):
        x = torch.cat([x, solutions[1][:inputs]], 1)
        h = torch.cat([h, solutions[2][:n]], 1)
        b, free = torch.cat([b, solutions[1][inputs:]], 1), torch.cat([free, solutions[2][n:]], 1)
    if isinstance(module, nn.LSTM) and module.bias:
        b = b + torch.cat([b.new_zeros(n), b.new_full((n,), forget), b.new_zeros(2 * n)])
    return [x.T, h.T, b[0], free[0]] if module.bias else [x.T, h.T]


def run(module, x, h, c, forget, pre_activations):
    """States and pre-activations at every step of one sequence."""
    states, sums = [], []
    for t, row in enumerate(x):
        z = pre_activations(t, row, h)
        h, c = cell(module, z, h, c, forget)
        states.append(h)
        sums.append(z)
    return torch.stack(states), torch.stack(sums), h, c


class Walk:
    """A recurrent module's forward on the reference batch, every layer solved.

    ``solve(a, t, noise)`` is the ridge solve; ``rows`` has the indices of the solved rows by layer.
    """

    def __init__(self, module, targets, solve, *, method, forget, rows):
        self.module, self.targets, self.solve = module, targets, solve
        self.method, self.rows = method, rows
        self.forget = forget if isinstance(module, nn.LSTM) and module.bias else 0.0
        self.solved: dict[str, Tensor] = {}

    def everywhere(self, suffix, layout, data):
        """The targets at all places, 0 where there are none."""
        targets = self.targets[suffix]
        if suffix not in self.rows:
            return targets
        places = layout.joined([torch.arange(len(x)) for x in data]).shape
        rows = targets.new_zeros(places.numel(), targets.shape[-1])
        return rows.index_put((self.rows[suffix],), targets).view(*places, -1)

    def noises(self, suffix, a):
        """For each system, what dropout between the levels adds to its inputs' mean squares: on the columns of x."""
        rate, found = 0.0 if suffix.startswith("l0") else self.module.dropout, []
        states = [self.module.hidden_size, 0, self.module.hidden_size]
        for n, matrix in enumerate(a):
            inputs = 0 if n == 2 else matrix.shape[1] - states[n] - self.module.bias
            found.append((torch.arange(matrix.shape[1], device=matrix.device) < inputs) * (rate / (1 - rate)))
        return found

    def layer(self, suffix, layout, data, h0, c0):
        """Solve one layer: its W, then the real run and the run along the targets of every sequence."""
        index = layout.joined([torch.arange(len(x)) for x in data])
        index = torch.cat(layout.sequences(torch.arange(index.numel()).view(index.shape)))
        wanted = layout.sequences(self.everywhere(suffix, layout, data))
        along, rows = [], []
        for x, t, h, c in zip(data, wanted, h0, c0, strict=True):

            def visit(step, row, state, t=t):
                rows.append(systems(self.module, row, state))
                return t[step]

            along.append(run(self.module, x, h, c, self.forget, visit))
        keep = torch.isin(index, self.rows[suffix]) if suffix in self.rows else torch.ones_like(index, dtype=bool)
        t = torch.cat(wanted)[keep].split(widths(self.module), 1)
        a = [torch.stack(parts)[keep] for parts in zip(*rows, strict=True)]
        w = [self.solve(left, right, noise) for left, right, noise in zip(a, t, self.noises(suffix, a), strict=True)]
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        values = parameters(self.module, w, data[0].shape[1], self.forget)
        self.solved.update({f"{kind}_{suffix}": value for kind, value in zip(kinds, values, strict=False)})

        def real(step, row, state):
            return torch.cat([x @ m for x, m in zip(systems(self.module, row, state), w, strict=True)])

        return along, [run(self.module, *given, self.forget, real) for given in zip(data, h0, c0, strict=True)]

    def __call__(self, input, hx=None, project=False):
        """What the module returns."""
        module = self.module
        layout = Layout(module, input)
        packed = layout.packed is not None
        data = layout.sequences(input.data if packed else input)
        samples, directions = len(data), 2 if module.bidirectional else 1
        order = input.sorted_indices if packed and input.sorted_indices is not None else torch.arange(samples)
        zeros = data[0].new_zeros(module.num_layers * directions, samples, module.hidden_size)
        h0, c0 = (zeros, zeros) if hx is None else hx if isinstance(module, nn.LSTM) else (hx, zeros)
        h0, c0, last = h0[:, order], c0[:, order], []
        for level in range(module.num_layers):
            outputs = []
            for side in ("", "_reverse")[:directions]:
                seen = [x.flip(0) for x in data] if side else data
                given = (f"l{level}{side}", layout, seen, h0[len(last)], c0[len(last)])
                along, real = self.layer(*given)
                if project:
                    sums, name = layout.joined([sums for _, sums, _, _ in real]), f"l{level}{side}"
                    self.targets[name] = sums.flatten(0, -2)[self.rows[name]] if name in self.rows else sums
                    along, real = self.layer(*given)
                passed = along if self.method == "ocu" else real
                outputs.append([h.flip(0) if side else h for h, _, _, _ in passed])
                last.append([torch.stack(states) for states in zip(*[p[2:] for p in passed], strict=True)])
            data = [torch.cat(parts, 1) for parts in zip(*outputs, strict=True)]
        output = layout.joined(data)
        h, c = (torch.stack(states)[:, order.argsort()] for states in zip(*last, strict=True))
        if packed:
            output = PackedSequence(output, input.batch_sizes, input.sorted_indices, input.unsorted_indices)
        return output, (h, c) if isinstance(module, nn.LSTM) else h
