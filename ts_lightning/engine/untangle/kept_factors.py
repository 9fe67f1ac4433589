"""Whether what weights are multiplied with stays the same from one untangling to the next.

Solves by kept maps divide a weight by the factor that the last pass over the reference batch has read, and ``forward``
applies it times the present one.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from ts_lightning.layers.base import TargetLayer
from ts_lightning.layers.functional import FunctionalLayer

_SAME = 1e-4  # of a factor: what changes less does no harm


class KeptFactors:
    """The factors of weights that functions apply, see :class:`FunctionalLayer`.

    Args:
        layers: those of the target space.
    """

    def __init__(self, layers: Sequence[TargetLayer]) -> None:
        self._layers = [layer for layer in layers if isinstance(layer, FunctionalLayer)]
        self._kept: list[float | Tensor | None] | None = None

    @torch.no_grad()
    def look(self, *, served: bool) -> None:
        """Read the factors behind an untangling; say once which changed since the last one.

        Args:
            served: whether there were solves by the maps of that one.
        """
        found = [layer.factor for layer in self._layers]
        if served and self._kept is not None:
            changed = [
                layer.module_name
                for layer, before, now in zip(self._layers, self._kept, found, strict=True)
                if before is not None and now is not None and not _same(before, now)
            ]
            if changed:
                self._layers, self._kept = [], None
                warnings.warn(
                    f"What the weight of layer '{changed[0]}' is multiplied with has changed within a period of "
                    f"untangle. It is read at solves over the reference batch alone: in the others the weight is "
                    f"divided by the old value, so that the layer's outputs grow and shrink with the new one. Use "
                    f"untangle=1, or add {', '.join(map(repr, changed[:5]))} to exclude.",
                    stacklevel=2,
                )
                return
        self._kept = [factor.detach().clone() if isinstance(factor, Tensor) else factor for factor in found]


def _same(before: float | Tensor, now: float | Tensor) -> bool:
    a, b = torch.as_tensor(before), torch.as_tensor(now)
    a, b = a.to(b.device, torch.float64), b.to(torch.float64)
    return bool(((a - b).abs() <= _SAME * a.abs()).all())
