"""Calls that a forward makes in the reference pass, seen by a TorchFunctionMode, and what stands for some of them.

- A function that applies a solved layer's weight is the layer's forward, see ``layers/functional.py``.
- Derivatives (forces by ``autograd.grad``, or a ``backward()``, in ``forward``) are not computed, and no solved layer
  may depend on these (``derivatives.py``).
- Hooks on tensors are not registered: they would run at the pull-back.
- Dropout that is off in the pass is noise in training, which is followed to the layers (``noise.py``).
- ``requires_grad`` is a parameter's own, whatever stands for its values.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from ts_lightning.engine.reference.call_sites import unfit_site
from ts_lightning.engine.reference.derivatives import Derivatives
from ts_lightning.engine.reference.noise import DROPOUTS, Noise
from ts_lightning.engine.reference.watch import SET_DATA, Watch, flat
from ts_lightning.errors import EndlessLoop
from ts_lightning.layers.affine import AffineLayer
from ts_lightning.layers.applied import Applied, Form
from ts_lightning.layers.base import TargetLayer
from ts_lightning.layers.functional import READERS, FunctionalLayer, applied
from ts_lightning.layers.linear import LinearTargets
from ts_lightning.layers.part import Part, key_of
from ts_lightning.layers.seen import CUTS, Seen, cut, followed

_DATA: Any = Tensor.data
_GRADIENT: Any = Tensor.grad
_GRAD_FN: Any = Tensor.grad_fn
_REQUIRES_GRAD: Any = Tensor.requires_grad
_ENDLESS = 10_000, 100  # uses of a layer, and multiples of those when training started, behind which no end is expected
_NESTS = frozenset((list, tuple, dict))  # exactly, which shapes are not


class Calls(TorchFunctionMode):
    """The mode.

    Args:
        layers: that are solved.
        use: stands for a use of a layer: layer, input and this mode.
        watch: sees what functions do with other parameters; None for nobody.
        values: of parameters that are solved already, by their ids, to which others are added; None for no such.

    The mode is in no reference cycle: it holds all solved values, which end with the pass and not with a later garbage
    collection.

    Attributes:
        derivatives: that the forward asks for.
        thread: in which calls are seen, by its identifier.
        noise: that training has on the tensors of the pass.
        values: the solved values, by id of their parameters, which stand for these in all other calls (``ties.py``).
        bounded: whether a layer's uses are bounded by those that are known of it, so that an endless loop ends.
        read: takes note of the ``data`` of a tensor, whose writes the tensor's version does not count.
    """

    def __init__(
        self,
        layers: Sequence[TargetLayer],
        use: Callable[[TargetLayer, Any, Calls], Any],
        watch: Watch | None = None,
        values: dict[int, Tensor] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.derivatives = Derivatives()
        self.noise = Noise()
        self.values: dict[int, Tensor] = {} if values is None else values
        self.bounded = True
        self._uses: Counter[str] = Counter()
        self._surveys = values is None
        self.read: Callable[[Tensor, Tensor], None] = _nothing_read
        functional = [x for x in layers if x.by_function or type(x) is LinearTargets]
        self._layers = {key_of(x.parameters[0]): x for x in functional}
        self._use, self._watch = use, watch
        self.thread = get_ident()
        self._constant: Callable[[Any], bool] = _any if watch is None else watch.constant
        watched = () if watch is None else watch.parameters.values()
        held = (p.whole for x in functional for p in x.parameters if type(p) is Part)
        parameters = (*watched, *(x.parameters[0] for x in functional), *held)
        self._constants: set[int] = set()  # ids of views of weights that were made where gradients are off
        # with what keeps the tensors alive whose ids are looked up
        self._known: dict[int, tuple[Seen, Any]] = {id(p): (Seen.itself(p), p) for p in parameters}

    def use(self, layer: TargetLayer, x: Any) -> Any:
        """What stands for a use of a layer; the calls that are made there are not seen.

        Raises:
            EndlessLoop: there are far more uses than when training started.
        """
        self._uses[layer.name] += 1
        if self.bounded and self._uses[layer.name] > _ENDLESS[0] + _ENDLESS[1] * layer.uses:
            raise _endless(layer, self._uses[layer.name])
        with torch._C.DisableTorchFunction():
            if not _holds(self._known, (x,)):
                return self._use(layer, x, self)
            found = self._use(layer, self._solved(x), self)
            self._other(type(layer.module), (x,), {}, found)
            return found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call ``func``, or what stands for it."""
        kwargs = kwargs or {}
        stand_in = _STAND_INS.get(func)
        if stand_in is not None:
            return stand_in(self, *args, **kwargs)
        if func == SET_DATA and self._lies_there(*args):
            return None
        if func in DROPOUTS:
            return self._dropout(func, args, kwargs)
        call = self._applied(func, args, kwargs)
        layer = None if call is None else self._layers.get(call.seen.key)
        if call is not None and layer is not None and self._fits(layer, call):
            assert isinstance(layer, AffineLayer)
            if isinstance(layer, FunctionalLayer):
                layer.scale(call.seen.factor)
            with self:  # which sees how the layer's input is made, and the result
                return call.result(layer.visited(self.use, call.take(call.x)), len(layer.parameters) > 1)
        values, watch = self.values, self._watch
        before = [] if watch is None else watch.before(args, kwargs)
        watched = self._surveys and self.derivatives.watched(func, args, kwargs)
        if values and (_holds(values, args) or (kwargs and _holds(values, kwargs.values()))):
            found = func(*self._solved(args), **self._solved(kwargs))
        else:
            found = func(*args, **kwargs)
        if watched:
            self.derivatives.look(func, args, found)
        if call is None:
            self._follow(func, args, kwargs, found)
        else:
            self._other(func, args, kwargs, found, call)
        if watch is not None and before:
            watch.after(func, args, before)
        self.noise.follow(func, args, found)
        return found

    def _applied(self, func: Any, args: Any, kwargs: Any) -> Applied | None:
        """The weight that a call applies; None for none. It is read only if there is one, since that takes long."""
        if func not in READERS or not (_holds(self._known, args) or _holds(self._known, kwargs.values())):
            return None
        call = applied(func, args, kwargs, self._weight)
        return call if call is None or self._watch is None else self._watch.applied(call, self._weight(call.bias))

    def _weight(self, tensor: Any) -> Seen | None:
        found = self._known.get(id(tensor))
        if found is None or (id(tensor) in self._constants and torch.is_grad_enabled()):
            return None
        return found[0]

    def _solved(self, value: Any) -> Any:
        """What a call is given, with the solved values in the place of their parameters."""
        if id(value) in self.values:
            return self._laid_out(value)
        kind = type(value)
        if kind is dict:
            return {key: self._solved(entry) for key, entry in value.items()}
        return kind(map(self._solved, value)) if kind in _NESTS else value

    def _laid_out(self, parameter: Tensor) -> Tensor:
        """A parameter's solved value in the parameter's layout, which views need."""
        value = self.values[id(parameter)]
        if value.stride() == parameter.stride():
            return value
        # in the graph that gradients go through, and in no transform's: it serves the next call, too
        found = torch.empty_like(parameter, requires_grad=False).copy_(value)
        if unfit_site() is None:
            self.values[id(parameter)] = found
        return found

    def _fits(self, layer: TargetLayer, call: Applied) -> bool:
        """Whether a call is a use of a layer; in another one the solved value stands for the weight."""
        bias = layer.parameters[1] if len(layer.parameters) > 1 else None
        form = layer.form if isinstance(layer, FunctionalLayer) else Form.plain(layer.parameters[0])
        if type(bias) is not Part:
            return call.form == form and (bias is None or call.bias is bias)
        added = self._weight(call.bias)
        return call.form == form and added is not None and added.is_part(key_of(bias))

    def _follow(self, func: Any, args: Any, kwargs: Mapping[str, Any], found: Any) -> None:
        """Follow a weight through views and products with constants, and let the watch see other functions of it."""
        made = followed(self._weight, self._constant, func, args, kwargs, found)
        parts = [(made, found)] if made is not None else []
        if made is None and func in CUTS:
            parts = cut(self._weight, func, args, kwargs, found)
        if not parts:
            self._other(func, args, kwargs, found)
            return
        self._known.update({id(tensor): (seen, tensor) for seen, tensor in parts})
        if not torch.is_grad_enabled():
            self._constants.update(id(tensor) for _, tensor in parts if tensor is not args[0])

    def _other(self, func: Any, args: Any, kwargs: Mapping[str, Any], found: Any, call: Applied | None = None) -> None:
        """Let the watch see a function of weights; of a call that applies one, what it does with others."""
        known, watch = self._known, self._watch
        if watch is None:
            return
        weights = [known[id(x)][0].weight for x in flat((*args, *kwargs.values())) if id(x) in known]
        if call is not None:
            added = self._weight(call.bias)
            bias = added.weight if added is not None and added.is_part(added.key) else None
            weights = [w for w in weights if w is not call.weight and w is not bias]
        if weights:
            watch.other(func, weights, found)

    def _dropout(self, func: Any, args: Any, kwargs: Any) -> Any:
        given, named = (self._solved(args), self._solved(kwargs)) if self.values else (args, kwargs)
        found = self.noise.dropout(func, given, named)
        self._follow(func, args, kwargs, found)
        return found

    def _data(self, tensor: Tensor, *kind: Any) -> Tensor:
        value = self._solved(tensor)
        found: Tensor = value.data
        self._follow(_DATA.__get__, (tensor,), {}, found)
        if self._watch is not None:
            self._watch.data(tensor, found)
        if value is tensor:
            self.read(tensor, found)
        return found

    def _requires_grad(self, tensor: Tensor, *kind: Any) -> bool:
        return tensor.requires_grad

    def _grad_fn(self, tensor: Tensor, *kind: Any) -> Any:
        return tensor.grad_fn

    def _require_grad(self, tensor: Tensor, requires_grad: bool = True) -> Tensor:
        if tensor.is_leaf or not isinstance(tensor, nn.Parameter):  # and no copy of one
            tensor.requires_grad_(requires_grad)
            self.derivatives.retain(tensor)
        return tensor

    def _gradient(self, tensor: Tensor, *kind: Any) -> Tensor | None:
        copied = isinstance(tensor, nn.Parameter) and not tensor.is_leaf
        return self.derivatives.gradient(tensor, solved=copied or self._solved(tensor) is not tensor)

    def _lies_there(self, tensor: Tensor, value: Any) -> bool:
        """Whether a tensor is given its own numbers, as by ``module.to(x.device)``, which writes nothing."""
        return value is tensor or value is self._solved(tensor)

    def _handle(self, tensor: Tensor, hook: Any) -> RemovableHandle:
        return RemovableHandle(OrderedDict())


def _derivatives(method: Callable[..., Any]) -> Callable[..., Any]:
    """What stands for a function by a method of :class:`Derivatives`."""
    return lambda calls, *args, **kwargs: method(calls.derivatives, *args, **kwargs)


def _any(factor: Any) -> bool:
    """Of factors that a dry run has seen."""
    return True


def _nothing_read(tensor: Tensor, data: Tensor) -> None:
    """Nobody takes note."""


def _holds(values: Mapping[int, Any], given: Iterable[Any]) -> bool:
    """Whether one of these is known by its id, or holds one that is."""
    for value in given:  # for every call of every pass: no generator, no function where there are no lists
        if id(value) in values:
            return True
        if type(value) in _NESTS and _holds(values, value.values() if type(value) is dict else value):
            return True
    return False


_STAND_INS: dict[Any, Callable[..., Any]] = {
    _DATA.__get__: Calls._data,
    _GRADIENT.__get__: Calls._gradient,
    _GRADIENT.__set__: _derivatives(Derivatives.give),
    _GRAD_FN.__get__: Calls._grad_fn,
    _REQUIRES_GRAD.__get__: Calls._requires_grad,
    _REQUIRES_GRAD.__set__: Calls._require_grad,
    Tensor.requires_grad_: Calls._require_grad,
    torch.autograd.grad: _derivatives(Derivatives.of),
    torch.autograd.backward: _derivatives(Derivatives.backward),
    Tensor.backward: _derivatives(Derivatives.backward),
    Tensor.retain_grad: _derivatives(Derivatives.retain),
    Tensor.register_hook: Calls._handle,
    Tensor.register_post_accumulate_grad_hook: Calls._handle,
}


def _endless(layer: TargetLayer, found: int) -> EndlessLoop:
    """The error of a layer in a loop of forward that has no end with the weights that it is given."""
    return EndlessLoop(
        f"layer '{layer.name}' had {layer.uses} uses in a forward on the reference batch when training started; found "
        f"{found} so far. A loop of forward does not come to its end with the weights of this step: let it end after a "
        f"number of steps, or add '{layer.module_name}' to exclude."
    )
