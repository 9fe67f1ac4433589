"""The reference pass: the mode that the model is run in on the reference batch, and what stands for its layers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from ts_lightning.engine.batches import tensors_in
from ts_lightning.engine.reference_batch import ReferenceBatch
from ts_lightning.engine.shared_norm import shared_norm
from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers.base import TargetLayer, Visit
from ts_lightning.ridge.precision import full_precision
from ts_lightning.ridge.processes import Shards


class ReferencePass:
    """The model's forward on a reference batch, with a visit in the place of each layer's own forward.

    Args:
        batch: the reference batch, with its model.
        layers: those of the model's layers that are solved.
    """

    def __init__(self, batch: ReferenceBatch, layers: Sequence[TargetLayer]) -> None:
        self.batch = batch
        self._layers = layers
        self._device = layers[0].parameters[0].device

    def with_fastest_layout(self) -> ReferencePass:
        """The pass on the batch in the layout that is fastest, if the model can be run on it; otherwise this one."""
        batch = self.batch.channels_last()
        if batch is None:
            return self
        faster = ReferencePass(batch, self._layers)
        try:
            faster.outputs()
        except RuntimeError:  # as x.view(len(x), -1) behind a convolution raises
            return self
        return faster

    def outputs(self) -> list[Tensor]:
        """The model's output tensors, with its weights as they are."""
        with torch.no_grad(), full_precision(self._device), reference_mode(self.batch.model, self.batch.shards):
            return [t.clone() for t in tensors_in(self.batch.run()) if t.is_floating_point()]

    def walk(self, visit: Visit, around: AbstractContextManager[Any] | None = None) -> list[str]:
        """Run the model with ``visit`` for each layer; returns their names in the order of the visits.

        Args:
            visit: stands for each layer's forward.
            around: entered around the model's forward alone.

        Raises:
            TargetSpaceError: a layer was not reached, or reached twice.
        """
        visited: list[str] = []

        def once(layer: TargetLayer, x: Any) -> Any:
            if layer.name in visited:
                raise TargetSpaceError(
                    f"layer '{layer.module_name}' is used twice in one forward; its weights would have two solutions. "
                    f"Give each use a layer of its own, or add '{layer.module_name}' to exclude."
                )
            visited.append(layer.name)
            return visit(layer, x)

        with (
            full_precision(self._device),
            reference_mode(self.batch.model, self.batch.shards),
            replaced(self._layers, once),
            around or nullcontext(),
        ):
            self.batch.run()
        missing = dict.fromkeys(layer.module_name for layer in self._layers if layer.name not in visited)
        if missing:
            raise TargetSpaceError(
                f"The reference forward did not reach {', '.join(missing)}. Every chosen layer must be called in it: "
                f"override reference_forward, or add the name to exclude."
            )
        return visited


@contextmanager
def reference_mode(model: nn.Module, shards: Shards | None = None) -> Iterator[None]:
    """Dropout off, batch norm on the reference batch's own statistics, the random state left as it was found.

    With ``shards``, batch norm's statistics are those of all processes' samples. Compiled modules run as they were
    written, since the layers in them are stood in for.
    """
    modes = [(module, module.training) for module in model.modules()]
    norms = [(m, dict(m._buffers)) for m in model.modules() if isinstance(m, _NormBase) and m.track_running_stats]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    fastpath = torch.backends.mha.get_fastpath_enabled()
    try:
        for module, _ in modes:
            module.training = isinstance(module, _NormBase)
        for norm, _ in norms:
            norm.track_running_stats = False
            # an instance norm writes to running statistics for as long as it has any
            norm._buffers.update(running_mean=None, running_var=None)
        # the fused inference kernels of transformers bypass the layers
        torch.backends.mha.set_fastpath_enabled(False)
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng([device.index] if device.type == "cuda" else []))
            if "torch._dynamo" in sys.modules:
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.enter_context(_forwards(_norm_forwards(model, shards)))
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        for norm, statistics in norms:
            norm.track_running_stats = True
            norm._buffers.update(statistics)
        for module, training in modes:
            module.training = training


def _norm_forwards(model: nn.Module, shards: Shards | None) -> dict[nn.Module, Callable[..., Any]]:
    """What stands for the forward of batch norms, to which the samples of the reference batch are one batch."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if shards is not None:
        return {norm: partial(shared_norm, norm, shards) for norm in norms}
    # it would ask other processes about the samples that this one has, too
    return {norm: partial(_BatchNorm.forward, norm) for norm in norms if isinstance(norm, nn.SyncBatchNorm)}


@contextmanager
def replaced(layers: Sequence[TargetLayer], visit: Visit) -> Iterator[None]:
    """Let ``visit`` stand for each layer's forward, so that their modules' own hooks still run around them."""
    parts: dict[nn.Module, list[TargetLayer]] = {}
    for layer in layers:
        parts.setdefault(layer.module, []).append(layer)
    with _forwards({module: partial(inside[0].forward, inside, visit) for module, inside in parts.items()}):
        yield


@contextmanager
def _forwards(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Give modules another forward for a while."""
    kept = {module: module.__dict__.get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            module.__dict__["forward"] = forward
        yield
    finally:
        for module, own_forward in kept.items():
            if own_forward is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = own_forward
