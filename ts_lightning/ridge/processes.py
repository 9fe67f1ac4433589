"""How the samples of a reference batch are spread over processes, and the messages between the processes.

Every process holds consecutive samples of the batch, its shard, with their rows of A and their targets. A layer's
system A'A + R is a sum over rows, so one sum over the processes per solve gives all of them the same system, and the
same weights bit for bit. Gradients on targets stay where the targets are.
"""

from __future__ import annotations

import atexit
import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Shards:
    """The processes that share a reference batch; their numbers of samples differ by one at most.

    Args:
        group: the processes.
        samples: the number of samples in the whole batch.
    """

    def __init__(self, group: dist.ProcessGroup, samples: int) -> None:
        self.group = group
        self.rank = dist.get_rank(group)
        self.ranks = dist.get_world_size(group)
        self.samples = samples

    def bounds(self, rank: int, places: int | None = None) -> tuple[int, int]:
        """The range (start, stop) of a process's samples; with ``places``, a multiple of the samples, its places."""
        scale = 1 if places is None else places // self.samples
        each, more = divmod(self.samples, self.ranks)
        start = each * rank + min(rank, more)
        return scale * start, scale * (start + each + (rank < more))

    def sum(self, *tensors: Tensor) -> None:
        """Replace each tensor by its sum over the processes, in one message; the same bits on all of them.

        Sparse ones, as the gradient of a table of which each process has looked up other rows, take messages of their
        own.
        """
        for tensor in tensors:
            if tensor.is_sparse:
                self._sum_sparse(tensor)
        tensors = tuple(tensor for tensor in tensors if not tensor.is_sparse)
        if not tensors:
            return
        if len(tensors) == 1 and tensors[0].is_contiguous():
            dist.all_reduce(tensors[0], group=self.group)
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat, group=self.group)
        for tensor, part in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view(tensor.shape))

    def _sum_sparse(self, tensor: Tensor) -> None:
        own = tensor.coalesce()
        sizes = self.objects(own.values().shape[0])
        if not any(sizes):
            return
        places, values = self.gather(sizes, own.indices().mT, own.values())
        tensor.copy_(torch.sparse_coo_tensor(places.mT, values, tensor.shape, check_invariants=False).coalesce())

    def gather(self, sizes: Sequence[int], *parts: Tensor) -> list[Tensor]:
        """Each part (sizes[rank], ...) of all processes, (sum of sizes, ...), in one message for each precision."""
        found: dict[int, Tensor] = {}
        for dtype in dict.fromkeys(part.dtype for part in parts):
            same = [index for index, part in enumerate(parts) if part.dtype == dtype]
            padded = [_padded(parts[index], max(sizes)) for index in same]
            flat = torch.cat([block.reshape(-1) for block in padded])
            arrived = flat.new_empty(self.ranks, len(flat))
            dist.all_gather(list(arrived), flat, group=self.group)
            columns = torch.split(arrived, [block.numel() for block in padded], 1)
            for index, block, column in zip(same, padded, columns, strict=True):
                whole = [part.view(block.shape)[:size] for part, size in zip(column, sizes, strict=True)]
                found[index] = torch.cat(whole)
        return [found[index] for index in range(len(parts))]

    def objects(self, part: Any) -> list[Any]:
        """A picklable object of each process."""
        parts: list[Any] = [None] * self.ranks
        dist.all_gather_object(parts, part, group=self.group)
        return parts


@cache
def let_messages_end() -> None:
    """Wait a moment before the process ends.

    gloo's threads need the GIL to let go of the last messages' tensors. One that asks for it while the interpreter is
    being closed aborts the process (PyTorch, pull request 179291), and a training that had ended well is lost.
    """
    atexit.register(time.sleep, 0.5)


def _padded(part: Tensor, rows: int) -> Tensor:
    """``part`` padded with zeros to a number of rows, contiguous."""
    if len(part) == rows:
        return part.contiguous()
    padded = part.new_zeros(rows, *part.shape[1:])
    padded[: len(part)] = part
    return padded


def broadcast(tensors: Sequence[Tensor], group: dist.ProcessGroup) -> None:
    """Replace each tensor by the first process's, in one message for each precision."""
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        same = [tensor for tensor in tensors if tensor.dtype == dtype]
        flat = torch.cat([tensor.reshape(-1) for tensor in same])
        dist.broadcast(flat, dist.get_global_rank(group, 0), group=group)
        for tensor, part in zip(same, torch.split(flat, [tensor.numel() for tensor in same]), strict=True):
            tensor.copy_(part.view(tensor.shape))


def relative_difference(value: Tensor, expected: Tensor, shards: Shards | None) -> float:
    """||value - expected|| / ||expected||, over all processes' entries where these hold shares."""
    squares = torch.stack([(value - expected).square().sum(), expected.square().sum()])
    if shards is not None:
        shards.sum(squares)
    return float((squares[0] / squares[1]).sqrt())


class Rows:
    """The rows of a layer's A where all of them are in this process."""

    ranks = 1

    def __init__(self, total: int) -> None:
        self.total = total
        self.own = slice(0, total)

    def sum(self, *tensors: Tensor) -> None:
        """Replace each tensor by its sum over the processes."""

    def gather(self, *parts: Tensor) -> Sequence[Tensor]:
        """All rows (..., total, columns) of each part, gathered from the rows of every process."""
        return parts


class ShardedRows(Rows):
    """The rows of a layer's A where processes hold some each.

    Args:
        shards: the processes.
        counts: how many rows each of them holds.

    Attributes:
        total: rows in all.
        own: this process's among them.
        ranks: the number of processes.
    """

    def __init__(self, shards: Shards, counts: Sequence[int]) -> None:
        super().__init__(sum(counts))
        first = sum(counts[: shards.rank])
        self.own = slice(first, first + counts[shards.rank])
        self.ranks = shards.ranks
        self._shards = shards
        self._counts = counts

    def sum(self, *tensors: Tensor) -> None:
        """Replace each tensor by its sum over the processes."""
        self._shards.sum(*tensors)

    def gather(self, *parts: Tensor) -> Sequence[Tensor]:
        """All rows (..., total, columns) of each part, gathered from the rows of every process."""
        gathered = self._shards.gather(self._counts, *(part.movedim(-2, 0) for part in parts))
        return [whole.movedim(0, -2) for whole in gathered]


class Cut:
    """Which entries of a layer's targets each process holds, along one dimension of the targets.

    Attributes:
        dim: the dimension.
        positions: for each process, the indices of its entries in the whole, rising.
    """

    def __init__(self, shards: Shards, dim: int, positions: Sequence[Tensor]) -> None:
        self._shards = shards
        self.dim = dim
        self.positions = positions

    def take(self, whole: Tensor) -> Tensor:
        """This process's part of the ``whole``."""
        return whole.index_select(self.dim, self.positions[self._shards.rank].to(whole.device))

    def join(self, part: Tensor) -> Tensor:
        """The whole, gathered from the parts of all processes."""
        sizes = [len(positions) for positions in self.positions]
        (gathered,) = self._shards.gather(sizes, part.movedim(self.dim, 0))
        whole = torch.empty_like(gathered)
        whole[torch.cat(list(self.positions)).to(part.device)] = gathered
        return whole.movedim(0, self.dim).contiguous()
