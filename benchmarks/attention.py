"""A small transformer of PyTorch's blocks for the bit sequences of ``benchmarks/memory.py``."""

from __future__ import annotations

from torch import Tensor, nn

from ts_lightning.recipes.data.bits import ASKED

_WIDTH, _HEADS, _BLOCKS = 32, 4, 2


class AttentionNetwork(nn.Module):
    """Bits and learned positions, causal blocks with norms before, and a readout of two logits at every step.

    Args:
        delay: steps at the beginning at which nothing is asked.
    """

    mask: Tensor

    def __init__(self, delay: int) -> None:
        super().__init__()
        self.delay = delay
        self.bit = nn.Linear(1, _WIDTH)
        self.position = nn.Embedding(delay + ASKED, _WIDTH)
        nn.init.normal_(self.position.weight, std=0.5)
        options = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(_WIDTH, _HEADS, 2 * _WIDTH, **options) for _ in range(_BLOCKS)
        )
        self.norm, self.readout = nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, 2)
        mask = nn.Transformer.generate_square_subsequent_mask(delay + ASKED)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, 2, steps - delay) for sequences (batch, steps, 1)."""
        z = self.bit(x) + self.position.weight
        for block in self.blocks:
            z = block(z, src_mask=self.mask, is_causal=True)
        logits: Tensor = self.readout(self.norm(z))
        return logits[:, self.delay :].transpose(1, 2)
