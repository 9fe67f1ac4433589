"""Layouts of sequences, and the scan along them, against one sequence at a time."""

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from ts_lightning.layers.recurrent.sequences import Dense, Packed, Part, Sequences, scan, scan_backward

LENGTHS = (6, 4, 4, 1)


def layouts(kind):
    """A layout, and how it holds a list of sequences."""
    if kind == "packed":
        packed = pack_sequence([torch.zeros(n) for n in LENGTHS])
        return Packed(packed.batch_sizes, torch.device("cpu")), lambda xs: pack_sequence(xs).data, LENGTHS
    return Dense(kind), lambda xs: torch.stack(xs, 1 - kind), (5,) * 3


def sequences(lengths, seed, width=3):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, width, generator=generator, dtype=torch.float64) for n in lengths]


@pytest.mark.parametrize("kind", [0, 1, "packed"])
def test_which_step_follows_which(kind):
    layout, joined, lengths = layouts(kind)
    xs = sequences(lengths, 0)
    x, initial = joined(xs), torch.randn(len(xs), 3, dtype=torch.float64)
    before = [torch.cat([first[None], one[:-1]]) for first, one in zip(initial, xs, strict=True)]
    assert torch.equal(layout.before(x, initial), joined(before))
    assert torch.equal(layout.last(x), torch.stack([one[-1] for one in xs]))
    assert torch.equal(layout.flip(x), joined([one.flip(0) for one in xs]))
    for t, step in enumerate(layout.steps(x)):
        assert torch.equal(step, torch.stack([one[t] for one in xs if t < len(one)]))


@pytest.mark.parametrize("chosen", [[], [1], [0, 2]])
@pytest.mark.parametrize("kind", [0, 1, "packed"])
def test_some_samples_alone(kind, chosen):
    layout, joined, lengths = layouts(kind)
    xs = sequences(lengths, 0)
    x, initial = joined(xs), torch.randn(len(xs), 3, dtype=torch.float64)
    sample = joined([torch.full((n,), index) for index, n in enumerate(lengths)])
    assert torch.equal(layout.sample_of_row(x.shape[:-1]), sample.flatten())
    rows = torch.isin(sample.flatten(), torch.tensor(chosen, dtype=torch.long)).nonzero().squeeze(1)
    all_of_them = Sequences(x, (initial,), layout)
    part = Part(all_of_them, rows)
    found = part.of(all_of_them)
    assert found.shape[:-1] == part.places
    assert torch.equal(found.initial[0], initial[chosen])
    assert torch.equal(found.data.flatten(0, -2), x.reshape(-1, 3)[rows])
    assert torch.equal(found.layout.before(found.data, initial[chosen]).flatten(0, -2), before(all_of_them)[rows])
    if chosen:
        assert torch.equal(found.layout.last(found.data), torch.stack([xs[index][-1] for index in chosen]))
        assert torch.equal(found.data, joined([xs[index] for index in chosen]))


def before(x):
    """What the step before has, rows in C order."""
    return x.layout.before(x.data, x.initial[0]).flatten(0, -2)


@pytest.mark.parametrize("kind", [0, 1, "packed"])
def test_scan(kind):
    layout, joined, lengths = layouts(kind)
    f, u = ([x.requires_grad_() for x in sequences(lengths, seed)] for seed in (1, 2))
    initial = torch.randn(len(f), 3, dtype=torch.float64, requires_grad=True)
    expected = []
    for keep, update, c in zip(f, u, initial, strict=True):
        states = []
        for a, b in zip(keep, update, strict=True):
            c = a * c + b
            states.append(c)
        expected.append(torch.stack(states))
    given = joined(f), joined(u), initial
    arrives = torch.randn(given[1].shape, dtype=torch.float64)
    *gradients, dinitial = torch.autograd.grad(joined(expected), [*f, *u, initial], arrives)
    df, du = joined(gradients[: len(f)]), joined(gradients[len(f) :])
    with torch.no_grad():
        c = scan(given[0], given[1].clone(), initial, layout)
        torch.testing.assert_close(c, joined(expected), rtol=1e-14, atol=1e-14)
        found, first = scan_backward(given[0], arrives.clone(), layout)
        torch.testing.assert_close(found, du, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(found * layout.before(c, initial), df, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(first, dinitial, rtol=1e-13, atol=1e-13)
