"""The reference pass: the model's forward on the reference batch, with a visit in the place of each layer's forward.

It leaves no trace (``untraced.py``), sets a mode of its own (``mode.py``), and sees what calls the forward makes
(``calls.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ts_lightning.engine.reference.calls import Calls
from ts_lightning.engine.reference.derivatives import heard, without_gradients
from ts_lightning.engine.reference.loops import Force, LoopEnded, as_they_are
from ts_lightning.engine.reference.mode import ReferenceMode, forwards, inherited
from ts_lightning.engine.reference.reference_batch import ReferenceBatch
from ts_lightning.engine.reference.ties import check_order
from ts_lightning.engine.reference.walk import Solve, Walk
from ts_lightning.engine.reference.watch import Watch
from ts_lightning.engine.running.batches import tensors_in
from ts_lightning.engine.running.lazy import waits
from ts_lightning.engine.running.untraced import Untraced
from ts_lightning.errors import Unreached
from ts_lightning.layers.base import TargetLayer
from ts_lightning.layers.part import key_of, wholes_of
from ts_lightning.layers.registry import inherited_forward
from ts_lightning.ridge.precision import full_precision


class ReferencePass:
    """The model's forward on a reference batch, with a visit in the place of each layer's own forward.

    Args:
        batch: the reference batch, with its model.
        layers: those of the model's layers that are solved.
        constant: whether visits take the layers' inputs as constants, see ``cascade_gradient``.

    Attributes:
        late: by layer name what binds a layer, with its input, where it is visited for the first time.
    """

    def __init__(self, batch: ReferenceBatch, layers: Sequence[TargetLayer], *, constant: bool = False) -> None:
        self.batch, self.constant = batch, constant
        self._layers = layers
        parameters = layers[0].parameters if layers else batch.model.parameters()
        self._device = next((p.device for p in parameters), torch.device("cpu"))
        self._untraced = Untraced(batch.model, batch.seed)
        self._mode = ReferenceMode(batch.model, batch.shards)
        self.late: dict[str, Callable[[TargetLayer, Any], None]] = {}
        self._checked = False  # that weights are solved before they are used

    def with_fastest_layout(self) -> ReferencePass:
        """The pass on the batch in the layout that is fastest, if the model can be run on it; otherwise this one."""
        batch = None if any(map(_bad_in_channels_last, self.batch.model.modules())) else self.batch.channels_last()
        if batch is None:
            return self
        faster = ReferencePass(batch, self._layers, constant=self.constant)
        try:
            faster.outputs()
        except RuntimeError:  # as x.view(len(x), -1) behind a convolution raises
            return self
        return faster

    @property
    def walked(self) -> bool:
        """Whether every layer was reached in an earlier :meth:`walk` with gradients."""
        return self._checked

    def initialise(self) -> list[nn.Parameter]:
        """Give the model's lazy modules their weights, which are returned; one that is not called stays lazy."""
        if any(map(waits, self.batch.model.modules())):
            self.outputs()
        return self._untraced.lazy.initialise()

    def outputs(self) -> list[Tensor]:
        """The model's output tensors, with its weights as they are."""
        parameters = list(self.batch.model.parameters())  # and not the copies of those that forward writes
        with (
            torch.inference_mode(False),
            torch.enable_grad(),  # a forward may differentiate
            full_precision(self._device),
            self._untraced() as undo,
            self._mode(undo.modules),
            without_gradients(parameters),
        ):
            return [t.detach().clone() for t in tensors_in(self.batch.run()) if t.is_floating_point()]

    def walk(
        self,
        visit: Solve,
        around: AbstractContextManager[Any] | None = None,
        held: Collection[str] = (),
        *,
        force: Force = as_they_are,
        waiting: Force = as_they_are,
        bound: bool = True,
    ) -> list[str]:
        """Run the model with ``visit`` for each layer; returns their names in the order of the visits.

        A layer that the forward uses several times is visited at its first use. At the others it runs with the values
        of its parameters that the visit gave. The layers of a loop are visited at its end, with what joins the inputs
        of all uses; see ``walk.py``.

        Args:
            visit: stands for each layer's forward.
            around: entered around the model's forward alone.
            held: the names of layers that run as they are, with the weights that they have.
            force: says what the layers of a loop pass on until they are visited.
            waiting: says what layers pass on ahead of their visit, on which nothing depends until then.
            bound: whether layers are bound to this batch, so that each has the rows that it is bound to.

        Raises:
            TargetSpaceError: a layer was not reached, has other rows, or depends on derivatives, or on a weight that is
                not solved by then.
        """
        layers = [layer for layer in self._layers if layer.name not in held] if held else self._layers
        checked = self._checked or not torch.is_grad_enabled()
        walk = Walk(layers, visit, force, waiting, self.late, constant=self.constant, bound=bound, checked=checked)
        for stage in walk.loops:
            walk.begin(stage)
            self.run(walk.use, layers, around, Calls(layers, walk.use, values=walk.values))
            with full_precision(self._device):
                walk.end()
        if not walk.ended:
            walk.begin(None)
            self.run(walk.use, layers, around, Calls(layers, walk.use, values=walk.values))
        missing = {layer.name: layer.module_name for layer in layers if layer.name not in walk.solved}
        if missing:
            raise unreached(*dict.fromkeys(missing.values()), layers=list(missing))
        if not checked:
            self._checked = True
            check_order(layers, walk.inputs)
        return list(walk.solved)

    def applies(self, names: Collection[str]) -> bool:
        """Whether functions use weights of these layers in another way than that in which they are solved.

        Args:
            names: of layers that a walk has not reached; those of modules are passed over.
        """
        weights = [layer.parameters[0] for layer in self._layers if layer.by_function and layer.name in names]
        if not weights:
            return False
        watch = Watch(wholes_of(weights), self.batch.model)
        modules = [layer for layer in self._layers if not layer.by_function]

        def use(layer: TargetLayer, x: Any, calls: Calls) -> Any:
            return as_they_are(layer, x, 0)

        with torch.inference_mode(False), torch.enable_grad():  # as in a walk
            self.run(use, modules, None, Calls(modules, use, watch))
        keys = {one.seen.key for calls in watch.calls.values() for one in calls}
        return bool(watch.others) or not keys.isdisjoint(map(key_of, weights))

    def run(
        self,
        use: Callable[[TargetLayer, Any, Calls], Any],
        layers: Sequence[TargetLayer],
        around: AbstractContextManager[Any] | None = None,
        calls: Calls | None = None,
    ) -> None:
        """Run the model with ``use`` for every use of each of the ``layers``: layer, input and the calls so far.

        ``calls`` see those of the forward; None for new ones.
        """
        calls = calls or Calls(layers, use)
        parts: dict[nn.Module, list[TargetLayer]] = {}
        for layer in layers:
            if not layer.by_function:
                parts.setdefault(layer.module, []).append(layer)
        stand_ins = {module: partial(inside[0].forward, inside, calls.use) for module, inside in parts.items()}
        with (
            full_precision(self._device),
            self._untraced(copied=False) as undo,
            self._mode(undo.modules),
            _given(stand_ins),
            around or nullcontext(),
        ):
            undo.copy()
            calls.read, calls.noise.frozen = undo.read, self._mode.frozen
            try:
                with heard(), calls, suppress(LoopEnded):
                    self.batch.run()
            finally:
                calls.derivatives.put_back()


@contextmanager
def _given(stand_ins: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Let these stand for the forwards of modules; of a class with one of its own, for that which it calls."""
    bases = {module: inherited_forward(module) for module in stand_ins}
    calling = {module: base for module, base in bases.items() if base is not None}
    own = {module: stand_in for module, stand_in in stand_ins.items() if module not in calling}
    with forwards(own), inherited(stand_ins, set(calling.values())):
        yield


def _bad_in_channels_last(module: nn.Module) -> bool:
    """Whether oneDNN's backward writes beside its memory: pointwise, strided, few channels (torch 2.14, AMD EPYC)."""
    if not isinstance(module, nn.Conv2d):
        return False
    return max(module.kernel_size) == 1 and max(module.stride) > 1 and module.in_channels < 8


def unreached(*modules: str, layers: Sequence[str] = ()) -> Unreached:
    """The error of modules, with layers of these names, that the reference forward does not call."""
    return Unreached(
        f"The reference forward did not reach {', '.join(modules)}. Every chosen layer must be called in it: override "
        f"reference_forward, or add the name to exclude.",
        modules,
        layers,
    )
