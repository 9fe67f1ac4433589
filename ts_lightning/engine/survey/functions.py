"""Layers whose weights the forward reaches through functions: found by what a dry run saw of each parameter."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor, nn

from ts_lightning.config import TargetSpaceConfig
from ts_lightning.engine.names import join, owners_of, plain_name
from ts_lightning.engine.reference.watch import Noted, Watch
from ts_lightning.engine.survey.selection import Selection
from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers.applied import Form
from ts_lightning.layers.base import TargetLayer
from ts_lightning.layers.functional import layer_of
from ts_lightning.layers.linear import LinearTargets


def watched(model: nn.Module) -> Watch:
    """A watch on all that a model trains."""
    return Watch([parameter for parameter in model.parameters() if parameter.requires_grad], model)


def functional_layers(
    model: nn.Module,
    config: TargetSpaceConfig,
    found: Selection,
    watch: Watch,
    called: Collection[str],
    left: Collection[int],
) -> list[TargetLayer]:
    """The layers of weights that functions apply, each always in one way.

    A weight that is shared between modules, or that anything else is made of, has none.

    Args:
        model: the model.
        config: the settings.
        found: says what the user chose.
        watch: what the dry run saw.
        called: names of layers of ``found`` that the run called as modules.
        left: the ids of parameters of modules that the run called, and that are not solved.
    """
    taken = {id(p) for layer in found.layers if layer.name in called for p in layer.parameters}
    owners = owners_of(model)
    layers: list[TargetLayer] = []
    for prefix, module in model.named_modules():
        prefix = plain_name(prefix)
        own = {n: p for n, p in module.named_parameters(recurse=False) if _applied(p, watch) and id(p) not in taken}
        for local, weight in own.items():
            alone = len(own) == 1 and bool(prefix)
            name = prefix if alone else join(prefix, local)
            if found.dropped(prefix, name) or name in found.left or len(owners[id(weight)]) > 1:
                continue
            call = watch.calls[id(weight)][0]
            layers.append(
                layer_of(name, module, config, call.seen, _bias(weight, watch, owners, taken.union(left)), call.form)
            )
    return layers


def leave_unfit(found: Selection, watch: Watch, called: Collection[str]) -> set[int]:
    """Leave layers in weight space that the run called as modules, and whose weights it used otherwise, too.

    Returns:
        The ids of the parameters of the layers of ``called`` that are left.
    """
    added = {id(call.bias) for calls in watch.calls.values() for call in calls}
    layers = [layer for layer in found.layers if layer.name in called]
    for layer in list(found.layers):
        twice = isinstance(layer.module, nn.RNNBase | nn.RNNCellBase) and layer.name in called
        if twice and any(id(p) in added for p in layer.parameters):
            _leave_biases(layer, found)
            continue
        why = next((watch.unfit[id(p)] for p in layer.parameters if id(p) in watch.unfit), None)
        beside = [call for p in layer.parameters for call in watch.calls.get(id(p), ()) if call.why is not None]
        why = why or next((call.why for call in beside if not stands_for(layer, call)), None)
        if why is not None and layer.module_name not in found.left:
            error = TargetSpaceError(
                f"layer '{layer.name}': its weight is {why}, beside the layer's own call, and solved weights would "
                f"not be those that run. Add '{layer.module_name}' to exclude."
            )
            found.leave(layer.module_name, layer.module, why, error)
    return {id(p) for layer in layers if layer.module_name in found.left for p in layer.parameters}


def _leave_biases(layer: TargetLayer, found: Selection) -> None:
    """Leave a recurrent layer: of its two biases the solved one is the sum, which a function must not add."""
    if layer.module_name not in found.left:
        error = TargetSpaceError(
            f"layer '{layer.name}': a function adds one of its two biases, which are solved as one. Give the function "
            f"a bias of its own, or add '{layer.module_name}' to exclude."
        )
        found.leave(layer.module_name, layer.module, "a bias that a function adds, too", error)


def stands_for(layer: TargetLayer, call: Noted) -> bool:
    """Whether a layer that is a module stands for a call, too, see ``calls.py``."""
    own_bias = len(layer.parameters) == 1 or call.bias is layer.parameters[1]
    return type(layer) is LinearTargets and call.form == Form.plain(layer.parameters[0]) and own_bias


def _applied(parameter: Tensor, watch: Watch) -> bool:
    """Whether functions apply a parameter as a weight, always in one way, and nothing else is made of it."""
    calls = watch.calls.get(id(parameter), ())
    alone = id(parameter) not in watch.others and id(parameter) not in watch.unfit
    return len({call.form for call in calls}) == 1 and any(call.why is None for call in calls) and alone


def _bias(weight: Tensor, watch: Watch, owners: Mapping[int, list[str]], taken: Collection[int]) -> Tensor | None:
    """The parameter that all calls add to what this weight gives, and that nothing else is made of."""
    added = {id(call.bias): call.bias for call in watch.calls[id(weight)]}
    (bias,) = added.values() if len(added) == 1 else (None,)
    if bias is None or id(bias) not in watch.parameters or bias.dim() != 1 or len(owners[id(bias)]) > 1:
        return None
    if id(bias) in taken:  # which the layer of a module sets, or a module in weight space has
        return None
    others = [call for key, calls in watch.calls.items() if key != id(weight) for call in calls]
    return None if any(call.bias is bias for call in others) or id(bias) in watch.others else bias
