"""The reference pass: the model's forward on the reference batch, with a visit in the place of each layer's forward.

It leaves no trace (``untraced.py``), sets a mode of its own (``mode.py``), and sees what calls the forward makes
(``calls.py``).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ts_lightning.engine.batches import tensors_in
from ts_lightning.engine.calls import Calls, patched_forwards
from ts_lightning.engine.mode import ReferenceMode, forwards
from ts_lightning.engine.reference_batch import ReferenceBatch
from ts_lightning.engine.ties import check_order, solved_values
from ts_lightning.engine.untraced import Untraced
from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers.base import TargetLayer, Visit
from ts_lightning.ridge.precision import full_precision


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
        self._untraced = Untraced(batch.model, batch.seed)
        self._mode = ReferenceMode(batch.model, batch.shards)
        self._checked = False  # that weights are solved before they are used

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
        with (
            torch.inference_mode(False),
            torch.enable_grad(),  # a forward may differentiate
            full_precision(self._device),
            self._untraced() as undo,
            self._mode(undo.modules),
        ):
            return [t.detach().clone() for t in tensors_in(self.batch.run()) if t.is_floating_point()]

    def walk(
        self, visit: Visit, around: AbstractContextManager[Any] | None = None, held: Collection[str] = ()
    ) -> list[str]:
        """Run the model with ``visit`` for each layer; returns their names in the order of the visits.

        Args:
            visit: stands for each layer's forward.
            around: entered around the model's forward alone.
            held: the names of layers that run as they are, with the weights that they have.

        Raises:
            TargetSpaceError: a layer was not reached, or reached twice, or depends on derivatives, or on a weight that
                is not solved by then.
        """
        visited: list[str] = []
        inputs: list[tuple[TargetLayer, Any]] = []
        to_check = torch.is_grad_enabled() and not self._checked
        layers = [layer for layer in self._layers if layer.name not in held] if held else self._layers

        def once(layer: TargetLayer, x: Any) -> Any:
            if layer.name in visited:
                raise TargetSpaceError(
                    f"layer '{layer.module_name}' is used twice in one forward; its weights would have two solutions. "
                    f"Give each use a layer of its own, or add '{layer.module_name}' to exclude."
                )
            visited.append(layer.name)
            if to_check:
                inputs.append((layer, x))
            try:
                with torch._C.DisableTorchFunction(), solved_values(layer, calls.values):
                    layer.expect_noise(x, calls.noise)
                    return visit(layer, x)
            except TargetSpaceError as error:
                if not calls.differentiated:
                    raise
                raise TargetSpaceError(
                    f"layer '{layer.name}' receives derivatives that forward computes by autograd; weights cannot be "
                    f"solved from these. Add '{layer.module_name}' to exclude."
                ) from error

        parts: dict[nn.Module, list[TargetLayer]] = {}
        for layer in layers:
            parts.setdefault(layer.module, []).append(layer)
        stand_ins = {module: partial(inside[0].forward, inside, once) for module, inside in parts.items()}
        patched = patched_forwards(parts, stand_ins)
        calls = Calls(patched)
        with (
            full_precision(self._device),
            self._untraced(copied=False) as undo,
            self._mode(undo.modules),
            forwards({module: forward for module, forward in stand_ins.items() if module not in patched}),
            around or nullcontext(),
        ):
            undo.copy()
            with calls:
                self.batch.run()
        missing = dict.fromkeys(layer.module_name for layer in layers if layer.name not in visited)
        if missing:
            raise TargetSpaceError(
                f"The reference forward did not reach {', '.join(missing)}. Every chosen layer must be called in it: "
                f"override reference_forward, or add the name to exclude."
            )
        if to_check:
            self._checked = True
            check_order(layers, inputs)
        return visited
