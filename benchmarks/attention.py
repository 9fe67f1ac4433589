"""A small transformer of nn.Linear and nn.LayerNorm for the bit sequences of ``benchmarks/memory.py``."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from ts_lightning.data.bits import ASKED

_WIDTH, _HEADS, _BLOCKS = 32, 4, 2


class Block(nn.Module):
    """Causal self-attention and two dense layers, each with a norm before it and the input added after it."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(_WIDTH), nn.LayerNorm(_WIDTH)
        self.queries_keys_values, self.heads = nn.Linear(_WIDTH, 3 * _WIDTH), nn.Linear(_WIDTH, _WIDTH)
        self.wide, self.narrow = nn.Linear(_WIDTH, 2 * _WIDTH), nn.Linear(2 * _WIDTH, _WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, steps, width) for the same."""
        parts = self.queries_keys_values(self.before(x)).unflatten(2, (3, _HEADS, -1)).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(*parts, is_causal=True)
        x = x + self.heads(attended.transpose(1, 2).flatten(2))
        return x + self.narrow(functional.gelu(self.wide(self.between(x))))


class AttentionNetwork(nn.Module):
    """Bits and learned positions, blocks, and a readout of two logits at every step.

    Args:
        delay: steps at the beginning at which nothing is asked.
    """

    def __init__(self, delay: int) -> None:
        super().__init__()
        self.delay = delay
        self.bit = nn.Linear(1, _WIDTH)
        self.position = nn.Embedding(delay + ASKED, _WIDTH)
        nn.init.normal_(self.position.weight, std=0.5)
        self.blocks = nn.Sequential(*(Block() for _ in range(_BLOCKS)), nn.LayerNorm(_WIDTH))
        self.readout = nn.Linear(_WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, 2, steps - delay) for sequences (batch, steps, 1)."""
        logits: Tensor = self.readout(self.blocks(self.bit(x) + self.position.weight))
        return logits[:, self.delay :].transpose(1, 2)
