"""What is between the projections of an nn.MultiheadAttention. It has no weights and runs as it is, without dropout."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def attend(
    module: nn.MultiheadAttention,
    projections: list[Tensor],
    attn_mask: Tensor | None,
    key_padding_mask: Tensor | None,
    is_causal: bool,
    need_weights: bool,
) -> tuple[Tensor, Tensor | None]:
    """What the heads find, and where.

    Args:
        module: how many heads there are, and which layout.
        projections: queries, keys and values (..., embed), in the module's layout.
        attn_mask: as in the module's forward.
        key_padding_mask: the same.
        is_causal: the same.
        need_weights: whether to return the weights.

    Returns:
        What goes into the last projection (..., embed), in the module's layout; and the weights of each head,
        (samples, heads, steps, steps of the keys), if they are needed.
    """
    single, dim = projections[0].dim() == 2, 0 if module.batch_first else 1
    q, k, v = (_heads(z.unsqueeze(dim) if single else z, module) for z in projections)
    # is_causal says what kind of mask attn_mask is, and the module believes it where it has no other
    causal = is_causal and key_padding_mask is None and not need_weights
    mask = None if causal else _mask(attn_mask, key_padding_mask, q)
    weights = None
    if need_weights:
        scores = q @ k.mT / q.shape[-1] ** 0.5
        weights = torch.softmax(scores if mask is None else scores + mask, -1)
        found = weights @ v
    else:
        found = functional.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)
    found = found.transpose(1, 2).flatten(2)
    found = found if module.batch_first else found.transpose(0, 1)
    return found.squeeze(dim) if single else found, weights


def _heads(z: Tensor, module: nn.MultiheadAttention) -> Tensor:
    """(samples, heads, steps, size) of a projection."""
    z = z if module.batch_first else z.transpose(0, 1)
    return z.view(*z.shape[:2], module.num_heads, z.shape[2] // module.num_heads).transpose(1, 2)


def _mask(attn_mask: Tensor | None, key_padding_mask: Tensor | None, q: Tensor) -> Tensor | None:
    """What is added to scores (samples, heads, steps, steps of the keys); None for nothing."""
    masks = []
    if attn_mask is not None:
        masks.append(attn_mask.view(*q.shape[:2], *attn_mask.shape[1:]) if attn_mask.dim() == 3 else attn_mask)
    if key_padding_mask is not None:
        masks.append(key_padding_mask.view(len(q), 1, 1, key_padding_mask.shape[-1]))
    if not masks:
        return None
    added = [
        q.new_zeros(m.shape).masked_fill_(m, -torch.inf) if m.dtype == torch.bool else m.to(q.dtype) for m in masks
    ]
    return added[0] if len(added) == 1 else added[0] + added[1]
