"""What each of several processes has of a target space: its samples of the reference batch, and the targets of these.

Every process makes the start from the whole reference batch, as one process would, and keeps its share. With
``reference.shard=False`` each keeps all of it, and the first process's weights are sent to all, because replicas drift.
So it does where a loop has other uses on a share, as one over the samples has.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from ts_lightning.engine.reference.calls import Calls
from ts_lightning.engine.reference.loops import as_they_are
from ts_lightning.engine.reference.reference_batch import Reference, ReferenceBatch
from ts_lightning.engine.reference.reference_pass import ReferencePass
from ts_lightning.engine.running.batches import mapped, tensors_in
from ts_lightning.engine.targets.replicas import Replicas, differ
from ts_lightning.engine.targets.start import Start, keep_share
from ts_lightning.engine.targets.target import Target
from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers.base import TargetLayer
from ts_lightning.layers.loop import loop_of
from ts_lightning.ridge.processes import Cut, Shards, broadcast, let_messages_end


class Partition:
    """The processes of a target space.

    Args:
        group: the processes that train together; None for one.
        shard: whether they share the reference batch.

    Attributes:
        group: the processes, None for one.
        shards: which samples each of them has; None where each has all.
    """

    def __init__(self, group: dist.ProcessGroup | None, shard: bool) -> None:
        self.group = group if group is not None and dist.get_world_size(group) > 1 else None
        self.shards: Shards | None = None
        self._shard = shard
        self._replicas = Replicas()
        self._cuts: dict[str, Cut] = {}
        self._elementwise: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        if self.group is not None and dist.get_backend(self.group) == "gloo":
            let_messages_end()

    @property
    def ranks(self) -> int:
        """The number of processes that share the reference batch."""
        return 1 if self.shards is None else self.shards.ranks

    @property
    def replicated(self) -> bool:
        """Whether several processes each have the whole."""
        return self.group is not None and self.shards is None

    def reset(self, layers: Iterable[TargetLayer]) -> None:
        """Let every process have the whole again."""
        self.shards, self._cuts = None, {}
        for layer in layers:
            for solver in layer.solvers:
                solver.shared = None

    def seed(self, seed: int, device: torch.device) -> int:
        """The first process's seed."""
        sent = torch.tensor(seed, device=device)
        if self.group is not None:
            broadcast([sent], self.group)
        return int(sent)

    def same(self, tensors: Sequence[Tensor]) -> None:
        """Give all processes the first one's values."""
        if self.group is not None:
            with torch.no_grad():
                broadcast(tensors, self.group)

    def same_model(self, batch: ReferenceBatch) -> None:
        """Give all processes the first one's model where theirs differ, as DistributedDataParallel does later."""
        ReferencePass(batch, []).initialise()
        model = batch.model
        known = [tensor for tensor in (*model.parameters(), *model.buffers()) if not is_lazy(tensor)]
        if self.group is not None and differ([p for p in known if p.requires_grad], known[0].device, self.group):
            self.same(known)

    def same_batch(self, batch: ReferenceBatch, device: torch.device) -> ReferenceBatch:
        """The first process's reference batch where theirs differ; a function's is the user's to make the same."""
        if self.group is None or callable(batch.data) or not differ(list(tensors_in(batch.data)), device, self.group):
            return batch
        given = [batch.data]
        dist.broadcast_object_list(given, dist.get_global_rank(self.group, 0), self.group)
        return replace(batch, data=mapped(given[0], lambda tensor: tensor.to(device)))

    def same_values(self, values: Sequence[Tensor]) -> list[Tensor]:
        """The first process's solved values, for processes that each solve from the whole."""
        found = [value.detach().clone() for value in values]
        self.same(found)
        return found

    def compare(self, weights: Sequence[Tensor], others: Sequence[nn.Parameter]) -> None:
        """Say it where processes have other parameters beside the solved ones, or pulled back other gradients."""
        if self.group is not None and (known := [*weights, *others]):
            self._replicas.look(others, known[0].device, self.group)

    @property
    def looks(self) -> bool:
        """Whether processes are compared behind the next solve."""
        return self.group is not None and self._replicas.due

    def pulled(self, gradients: Callable[[], Sequence[Tensor]], targets: Iterable[Target]) -> None:
        """Note a pull-back's gradients, on the weights and on the targets, of which others may change these."""
        if self.looks:
            averaged = gradients()
            shares = [] if self.shards is None else [t.stored_grad for t in targets if t.stored_grad is not None]
            self._replicas.note(averaged, shares, averaged[0].device)

    def stepping(self, optimizer: Optimizer, trained: Callable[[], Sequence[Target]]) -> None:
        """Note the moments that an optimizer holds of the targets that it trains, ahead of a step.

        Not those of one number, with which an optimizer may begin, as Adagrad does.

        Raises:
            TargetSpaceError: they are not of each number of this process's targets, as matrices that precondition.
        """
        if self.shards is None:
            return
        if optimizer not in self._elementwise:
            held = [(target, optimizer.state[target]) for target in trained() if optimizer.state.get(target)]
            odd = [value for target, state in held for value in tensors_in(state) if not _of_each(value, target)]
            if odd:
                raise _of_other_forms(type(optimizer).__name__, odd[0], self.ranks)
            if held:
                self._elementwise.add(optimizer)
        if not self.looks:
            return
        targets = trained()
        moments = [value for target in targets for value in optimizer.state.get(target, {}).values()]
        shapes = {target.shape for target in targets}
        whole = [value for value in moments if isinstance(value, Tensor) and value.shape in shapes and _varies(value)]
        self._replicas.hold(targets, whole, targets[0].device)

    def cut(
        self, run: ReferencePass, layers: Sequence[TargetLayer], start: Start
    ) -> tuple[ReferencePass, dict[str, Target]]:
        """Keep this process's share of the reference batch and of the targets, which are returned."""
        if self.group is None or not self._shard:
            return run, start.targets
        self.shards = Shards(self.group, run.batch.samples)
        whole, run = run, ReferencePass(run.batch.share(self.shards), layers, constant=run.constant)
        if not _same_uses(run, layers, self.shards):
            self.shards = None
            return whole, start.targets
        targets, self._cuts = keep_share(run, layers, start, self.shards)
        for target in targets.values():
            target.shards = self.shards
        return run, targets

    def whole(self, name: str, share: Tensor) -> Tensor:
        """A layer's targets, or a tensor like them, of all processes out of this process's share."""
        return self._cuts[name].join(share) if name in self._cuts else share

    def share(self, name: str, whole: Tensor) -> Tensor:
        """This process's share of a layer's targets, or of a tensor like them."""
        return self._cuts[name].take(whole) if name in self._cuts else whole

    def agree_on_overflow(self, trained: Sequence[nn.Parameter]) -> None:
        """Let all processes skip a step under a gradient scaler if one of them has to."""
        if self.shards is None or not trained:
            return
        gradients = [_entries(parameter.grad) for parameter in trained if parameter.grad is not None]
        overflow = torch.zeros(1, device=trained[0].device)
        for gradient in gradients:
            overflow += (~gradient.isfinite()).any()
        self.shards.sum(overflow)
        some = next((gradient for gradient in gradients if gradient.numel()), None)
        if overflow > 0 and some is not None:  # None where there is nothing to step
            some.view(-1)[0] = torch.inf

    def gradient_norm(self, parameters: Iterable[nn.Parameter], targets: Mapping[str, nn.Parameter]) -> Tensor:
        """The 2-norm of the parameters' gradients, over the targets of all processes."""
        shared = {id(target) for target in targets.values()}
        first = next(iter(targets.values()))
        squares = torch.zeros(2, dtype=first.dtype, device=first.device)
        for parameter in parameters:
            gradient = parameter.grad
            if gradient is not None:
                squares[int(id(parameter) in shared)] += gradient.square().sum()
        if self.shards is not None:
            self.shards.sum(squares[1:])
        return squares.sum().sqrt()

    def batch(
        self,
        model: nn.Module,
        reference: Reference,
        forward: Callable[[Any], Any] | None,
        device: torch.device,
        state: Mapping[str, Any] | None = None,
    ) -> ReferenceBatch:
        """The reference batch, whose seed follows the user's; no draw changes the order of training data."""
        seed = self.seed((state or {}).get("seed", torch.initial_seed() % 2**63), device)
        return self.same_batch(ReferenceBatch.of(model, reference, forward, seed), device)


def _entries(gradient: Tensor) -> Tensor:
    """The numbers of a gradient, in its memory; of a sparse one those that it has."""
    return gradient._values() if gradient.is_sparse else gradient


def looks_at_all(kind: str, ranks: int) -> TargetSpaceError:
    """The error for an optimizer, by the name of its class, that needs all targets in one process."""
    return TargetSpaceError(
        f"{kind} looks at all targets at once, and each of {ranks} processes has its own. Use reference.shard=False, "
        f"or an optimizer that treats every number for itself, as Adam."
    )


def _of_other_forms(kind: str, moment: Tensor, ranks: int) -> TargetSpaceError:
    """The error for an optimizer, by the name of its class, that holds a moment of many of a target's rows."""
    return TargetSpaceError(
        f"{kind} holds a moment {tuple(moment.shape)} of targets, which is not one for each of their numbers or rows, "
        f"and each of {ranks} processes has its own rows. Use reference.shard=False, or an optimizer with moments of "
        f"each number, as Adam."
    )


def _of_each(moment: Tensor, target: Tensor) -> bool:
    """Whether a moment is one number, or one for each number or row of a target, and none of many rows."""
    if moment.numel() == 1 or moment.dim() != target.dim():
        return moment.numel() == 1
    pairs = zip(moment.shape, target.shape, strict=True)
    return all(a in (1, b) for a, b in pairs) and moment.shape[0] == target.shape[0]


def _varies(tensor: Tensor) -> bool:
    """Whether not all entries are one number, of which a process without samples has none."""
    return tensor.numel() > 0 and bool((tensor != tensor.flatten()[0]).any())


@torch.inference_mode(False)
@torch.no_grad()
def _same_uses(run: ReferencePass, layers: Sequence[TargetLayer], shards: Shards) -> bool:
    """Whether the loops of a model have as many uses on every share as on the whole reference batch."""
    loops = {layer.name: loop.uses for layer in layers if (loop := loop_of(layer)) is not None}
    if not loops:
        return True
    found: Counter[str] = Counter()

    def use(layer: TargetLayer, x: Any, calls: Calls) -> Any:
        found[layer.name] += layer.name in loops
        return as_they_are(layer, x, 0)

    try:
        run.run(use, layers)
    except Exception:  # of a forward that joins what its loop gave, of which there is nothing on an empty share
        found.clear()
    others = layers[0].parameters[0].new_tensor([float(+found != loops)])
    shards.sum(others)
    return not others.item()
