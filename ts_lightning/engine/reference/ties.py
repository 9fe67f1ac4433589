"""Solved weights that a forward takes by themselves, as a decoder does that is tied to the encoder's weight.

Behind the layer's own solve the reference pass gives such calls the solved value, so that gradients go both ways. Ahead
of it there is none: the weights would depend on those of the last step, which is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ts_lightning.engine.reference.dependence import tensors_of
from ts_lightning.engine.reference.graph import leaves
from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers.base import TargetLayer


def check_order(layers: Sequence[TargetLayer], inputs: Sequence[tuple[TargetLayer, Any]]) -> None:
    """Check that no layer's input depends on a weight that was taken before it was solved.

    Args:
        layers: what is solved.
        inputs: each layer with its input, in a graph of autograd.

    Raises:
        TargetSpaceError: one does; names both layers.
    """
    owners = {id(parameter): layer for layer in layers for parameter in layer.wholes}
    seen: set[Any] = set()
    for layer, x in inputs:
        for leaf in _leaves(x, seen):
            owner = owners.get(leaf)
            if owner is layer:
                raise TargetSpaceError(
                    f"layer '{layer.name}' depends on its own weight, which forward takes by itself before it calls "
                    f"the layer; it is not solved by then. Call the layer first, or add '{layer.module_name}' to "
                    f"exclude."
                )
            if owner is not None:
                raise TargetSpaceError(
                    f"layer '{layer.name}' depends on the weight of layer '{owner.name}', which forward takes by "
                    f"itself before that layer is called, or hands to an autograd.Function or a transform of "
                    f"torch.func (vmap, vjp); it is not the solved one there. Call the layer first, close over the "
                    f"weight in place of handing it over, or add '{owner.module_name}' to exclude."
                )


def _leaves(x: Any, seen: set[Any]) -> Iterator[int]:
    """The ids of the tensors of an input, and of those that their graphs begin with, but for graphs seen already."""
    tensors = tensors_of(x)
    yield from map(id, tensors)
    yield from map(id, leaves(tensors, seen))
