"""Weights that a forward reads without a gradient before they are solved, as ``weight.detach().norm()`` does.

The pass over the reference batch has the weights of the last solve there: each solve would follow from the one before.
This shows in a walk in which parameters hold other numbers until they are solved: some layer is solved from something
else. Reads on which no solve depends (a norm that is logged) are right, and so are those behind the layer's own solve,
which get the solved value. Reads with a gradient are refused, see ``ties.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ts_lightning.engine.memory import memory
from ts_lightning.engine.reference.dependence import tensors_of
from ts_lightning.engine.reference.reference_batch import ReferenceBatch
from ts_lightning.engine.reference.reference_pass import ReferencePass
from ts_lightning.engine.reference.watch import Watch
from ts_lightning.engine.survey.functions import stands_for
from ts_lightning.engine.survey.loop_check import same
from ts_lightning.engine.survey.random_weights import random_like
from ts_lightning.engine.survey.selection import Selection
from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers.base import TargetLayer
from ts_lightning.layers.functional import FunctionalLayer
from ts_lightning.layers.part import whole_of

_SCALES = (1.0, -10.0)  # of the other numbers: what looks at signs or has bounds sees them, too


def leave_read_ahead(batch: ReferenceBatch, found: Selection, watch: Watch) -> None:
    """Leave layers in weight space whose weights are read before they are solved, if a solve depends on it.

    Args:
        batch: the reference batch.
        found: what is solved of its model.
        watch: what functions do with the model's parameters. Where they do nothing with weights, no pass is made.
    """
    held = _held(batch.model)
    read = [layer for layer in found.layers if _is_read(layer, watch, held)]
    if not read:
        return
    walks = _Walks(batch, found.layers, read)
    while read and walks.differ(read):
        alone = [layer for layer in read if walks.differ([layer])] or read
        for layer in alone:
            if layer.module_name not in found.left:
                found.leave(layer.module_name, layer.module, "read by forward before it is solved", _refused(layer))
        read = [layer for layer in read if layer not in alone]


class _Walks:
    """Walks over the reference batch in which the layers have their own weights, from where they are solved on.

    Args:
        batch: the reference batch.
        layers: that are solved.
        read: those of them whose parameters may hold other numbers.
    """

    def __init__(self, batch: ReferenceBatch, layers: Sequence[TargetLayer], read: Sequence[TargetLayer]) -> None:
        self._batch, self._layers = batch, layers
        self._own = {layer.name: [p.detach() for p in layer.parameters] for layer in layers}
        self._own |= {layer.name: [p.detach().clone() for p in layer.parameters] for layer in read}

    def differ(self, layers: Sequence[TargetLayer]) -> bool:
        """Whether a layer is solved from something else where these ones' parameters hold other numbers until then.

        Never of a forward that is another one in every pass, of which nothing can be said.
        """
        if not self._expected:
            return False
        generator = torch.Generator().manual_seed(0)
        for scale in _SCALES:
            with self._holding(layers, scale, generator):
                differ = self._other()
            if differ:
                return self._repeats
        return False

    @cached_property
    def _expected(self) -> dict[str, list[Tensor]]:
        """What layers are solved from in a walk with the own weights; empty where there is none."""
        try:
            return self._given()
        except TargetSpaceError:  # which the start raises as well
            return {}

    @cached_property
    def _repeats(self) -> bool:
        """Whether walks repeat each other, so that a difference is one of the weights, and not of a clock, say."""
        return not self._other()

    def _other(self) -> bool:
        """Whether a walk solves a layer from something else than the first one."""
        try:
            given = self._given()
        except Exception:  # of a forward that checks its numbers, so that something depends on them
            return True
        return not all(map(self._same, given, given.values()))

    def _same(self, name: str, given: Sequence[Tensor]) -> bool:
        expected = self._expected[name]
        return len(given) == len(expected) and all(map(same, given, expected))

    @torch.enable_grad()  # as in a solve
    def _given(self) -> dict[str, list[Tensor]]:
        """What each layer is solved from, by name: its input, and what its weight is multiplied with."""
        found: dict[str, list[Tensor]] = {}

        def visit(layer: TargetLayer, x: Any) -> tuple[list[Tensor], Any]:
            found[layer.name] = [tensor.detach().clone() for tensor in tensors_of(x)]
            if isinstance(layer, FunctionalLayer) and layer.factor is not None:
                found[layer.name].append(torch.as_tensor(layer.factor).clone())
            return self._own[layer.name], self._pass(layer, x)

        ReferencePass(self._batch, self._layers).walk(visit, force=self._pass, waiting=self._pass, bound=False)
        return found

    def _pass(self, layer: TargetLayer, x: Any, use: int = 0) -> Any:
        return layer.produce(x, self._own[layer.name])

    @contextmanager
    def _holding(self, layers: Sequence[TargetLayer], scale: float, generator: torch.Generator) -> Iterator[None]:
        try:
            for parameter in (p for layer in layers for p in layer.parameters):
                parameter.data.copy_(scale * random_like(parameter, generator).detach())
            yield
        finally:
            for layer in layers:
                for parameter, own in zip(layer.parameters, self._own[layer.name], strict=True):
                    parameter.data.copy_(own)


def _is_read(layer: TargetLayer, watch: Watch, held: set[int]) -> bool:
    """Whether anything but the layer's own call takes its parameters, or a tensor that a module holds shares memory."""
    for parameter in layer.parameters:
        if id(whole_of(parameter)) in watch.others or memory(parameter) in held:
            return True
        if not layer.by_function and not all(stands_for(layer, call) for call in watch.calls.get(id(parameter), ())):
            return True
    return False


def _held(model: nn.Module) -> set[int]:
    """Where the memory of the tensors begins that modules hold beside their parameters."""
    held = [t for module in model.modules() for t in (*module.buffers(recurse=False), *vars(module).values())]
    return {memory(t) for t in held if isinstance(t, Tensor) and not isinstance(t, nn.Parameter)}


def _refused(layer: TargetLayer) -> TargetSpaceError:
    return TargetSpaceError(
        f"layer '{layer.name}': forward reads its weight without a gradient (detach(), data, item(), a copy) before it "
        f"is solved, and a solve depends on it. Call the layer first, or add '{layer.module_name}' to exclude."
    )
