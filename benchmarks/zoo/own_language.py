"""Small models in the style of well-known ones for language: what a default conversion has to take.

Every entry of MODELS makes one with its input. Weights and inputs are random; nothing is loaded.
"""

# ruff: noqa: D102
from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from benchmarks.zoo.example import Example

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
    """Blocks of Conv1D layers, and a readout that is tied to the table of words."""

    def __init__(self, blocks=3):
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(5, WIDTH)
        sizes = {"qkv": (WIDTH, 3 * WIDTH), "out": (WIDTH, WIDTH), "up": (WIDTH, 4 * WIDTH), "down": (4 * WIDTH, WIDTH)}
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"first": nn.LayerNorm(WIDTH), "second": nn.LayerNorm(WIDTH)}) for _ in range(blocks)
        )
        for block in self.blocks:
            block.update({name: Conv1D(*size) for name, size in sizes.items()})
        self.norm, self.readout = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WORDS, bias=False)
        self.readout.weight = self.words.weight

    def forward(self, x):
        h = self.words(x) + self.places(torch.arange(x.shape[1]))
        for block in self.blocks:
            h = h + block["out"](attend(*block["qkv"](block["first"](h)).chunk(3, -1)))
            h = h + block["down"](functional.gelu(block["up"](block["second"](h))))
        return self.readout(self.norm(h))


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


class Tied(nn.Module):
    """A recurrent network with a readout that is the table of words."""

    def __init__(self):
        super().__init__()
        self.words, self.rnn, self.dense = (
            nn.Embedding(WORDS, WIDTH),
            nn.GRU(WIDTH, 12, batch_first=True),
            nn.Linear(12, WIDTH),
        )

    def forward(self, x):
        return functional.linear(torch.tanh(self.dense(self.rnn(self.words(x))[0])), self.words.weight)


class Translator(nn.Module):
    """PyTorch's own transformer, with keys of another width and a projected LSTM ahead."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.memory = nn.LSTM(WIDTH, 10, proj_size=6, batch_first=True)
        self.attention = nn.MultiheadAttention(WIDTH, 2, kdim=6, vdim=6, batch_first=True)
        self.readout = nn.Linear(WIDTH, WORDS)

    def forward(self, x):
        memory, words = self.memory(self.words(x))[0], self.words(x.roll(1, 1))
        return self.readout(words + self.attention(words, memory, memory)[0])


class Heads(nn.Module):
    """Attention as in XLNet and Flax: einsum applies weights that have a dimension of heads."""

    def __init__(self, heads=2):
        super().__init__()
        self.words, size = nn.Embedding(WORDS, WIDTH), WIDTH // heads
        self.q, self.k, self.v = (matrix(WIDTH, heads, size) for _ in range(3))
        self.out, self.readout = matrix(heads, size, WIDTH), nn.Linear(WIDTH, WORDS)

    def forward(self, x):
        h = self.words(x)
        q, k, v = (torch.einsum("btd,dhk->bthk", h, w) for w in (self.q, self.k, self.v))
        weights = (torch.einsum("bthk,bshk->bhts", q, k) / q.shape[-1] ** 0.5).softmax(-1)
        return self.readout(h + torch.einsum("bthk,hkd->btd", torch.einsum("bhts,bshk->bthk", weights, v), self.out))


MODELS = {
    "GPT-2": lambda: Example(GPT2(), tokens()),
    "T5": lambda: Example(T5(), tokens()),
    "ALBERT": lambda: Example(Albert(), tokens()),
    "LoRA": lambda: Example(LoRA(), (torch.randn(12, 5),)),
    "Mamba": lambda: Example(Mamba(), (torch.randn(6, 5, WIDTH),)),
    "heads by einsum": lambda: Example(Heads(), tokens()),
    "tied readout": lambda: Example(Tied(), tokens()),
    "attention to a projected LSTM": lambda: Example(Translator(), tokens()),
}
