"""The tensors that graphs of autograd begin with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor


def leaves(tensors: Iterable[Tensor], seen: set[Any]) -> Iterator[Tensor]:
    """The tensors that the graphs of these begin with, but for graphs seen already."""
    nodes: list[Any] = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
    while nodes:
        node = nodes.pop()
        if node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            yield leaf
        nodes += [before for before, _ in node.next_functions if before is not None]
