"""What is kept of a layer until the next untangling: its systems' maps, and the way from P T to its parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ts_lightning.layers.base import TargetLayer
from ts_lightning.ridge.kept import KeptMap
from ts_lightning.ridge.processes import Shards


@dataclass
class KeptLayer:
    """What is kept of a layer.

    Attributes:
        layer: the layer.
        maps: of its systems; none of a layer that is part of a stack.
        offsets: what is added to its parameters, W0 - P A W0 where it is solved around W0; otherwise none.
    """

    layer: TargetLayer
    maps: list[KeptMap]
    offsets: list[Tensor] = field(default_factory=list)

    @classmethod
    @torch.no_grad()
    def of(
        cls, layer: TargetLayer, maps: list[KeptMap], target: Tensor, values: Sequence[Tensor], shards: Shards | None
    ) -> KeptLayer:
        """What is kept behind a solve to ``values``."""
        kept = cls(layer, maps)
        if layer.anchor is not None:
            ws = kept.apply(target)
            if shards is not None:
                shards.sum(*ws)
            linear = kept.values(ws)
            kept.offsets = [value.detach() - own for value, own in zip(values, linear, strict=True)]
        return kept

    def settle(self, target: Tensor, times: int) -> None:
        """Bring the maps to the form that serves so many products best."""
        ts = self.layer.kept_targets(target)
        self.maps = [one.settled(t.shape[-1], times) for one, t in zip(self.maps, ts, strict=True)]

    def apply(self, target: Tensor) -> list[Tensor]:
        """P T of each system, in the precision of the targets; this process's share."""
        ts = self.layer.kept_targets(target)
        return [one.apply(t.to(one.dtype)).to(t.dtype) for one, t in zip(self.maps, ts, strict=True)]

    def values(self, w: Sequence[Tensor]) -> list[Tensor]:
        """The values of the parameters for P T of each system."""
        found = self.layer.kept_values(w)
        return [value + offset for value, offset in zip(found, self.offsets, strict=True)] if self.offsets else found
