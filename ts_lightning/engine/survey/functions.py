"""Layers whose weights the forward reaches through functions: found by what a dry run saw of each parameter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from ts_lightning.config import TargetSpaceConfig
from ts_lightning.engine.names import join, owners_of, plain_name
from ts_lightning.engine.reference.watch import IN_PART, NOT_CONTIGUOUS, OVERLAPPING, Noted, Watch
from ts_lightning.engine.survey.selection import Selection
from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers.applied import Form
from ts_lightning.layers.base import TargetLayer
from ts_lightning.layers.functional import layer_of
from ts_lightning.layers.linear import LinearTargets
from ts_lightning.layers.part import Part, Region, is_partition
from ts_lightning.layers.registry import own_weights
from ts_lightning.layers.seen import Seen


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
    biases = _Biases(watch, owners, taken.union(left))
    layers: list[TargetLayer] = []
    for prefix, module in model.named_modules():
        prefix = plain_name(prefix)
        own = {n: p for n, p in module.named_parameters(recurse=False) if _applied(p, watch) and id(p) not in taken}
        for local, weight in own.items():
            alone = len(own) == 1 and bool(prefix) and _stands_for(module, weight)
            name = prefix if alone else join(prefix, local)
            if found.dropped(prefix, join(prefix, local)) or name in found.left or len(owners[id(weight)]) > 1:
                continue
            calls = parts_of(weight, watch)
            if None in calls:
                (first, *_), bias = calls[None], biases.of(calls[None])
                layers.append(layer_of(name, module, config, first.seen, bias, first.form))
                continue
            inside = [*map(bias_inside, calls.values())]
            regions = [region for region in (*calls, *inside) if region is not None]
            parts = dict(zip(regions, Part.of(weight, regions), strict=True))
            others = biases.of_parts([*calls.values()])
            for number, (region, (first, *_)) in enumerate(calls.items()):
                assert region is not None
                bias_region = inside[number]
                own_bias = others[number] if bias_region is None else parts[bias_region]
                seen = replace(first.seen, weight=parts[region], region=None)
                layer = layer_of(join(prefix, local, str(number)), module, config, seen, own_bias, first.form)
                layer.module_name = name
                layers.append(layer)
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
        why = next((watch.unfit[id(p), None] for p in layer.parameters if (id(p), None) in watch.unfit), None)
        calls = [call for p in layer.parameters for call in watch.calls.get(id(p), ()) if call.seen.region is None]
        beside = [call for call in calls if call.why is not None]
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
    whole = call.seen.region is None and call.form == Form.plain(layer.parameters[0])
    return type(layer) is LinearTargets and whole and own_bias


def parts_of(weight: Tensor, watch: Watch) -> dict[Region | None, list[Noted]]:
    """The calls that apply a parameter, by the part that they do, in the parts' order; None is all of it."""
    found: dict[Region | None, list[Noted]] = {}
    for call in watch.calls.get(id(weight), ()):
        found.setdefault(call.seen.region, []).append(call)
    return dict(sorted(found.items(), key=lambda pair: (0, ()) if pair[0] is None else (pair[0].offset, pair[0].size)))


def bias_inside(calls: Sequence[Noted]) -> Region | None:
    """The part of a weight's own parameter that all calls of a part of it add, as those of one flat vector do."""
    bias = _added(calls)
    return bias.region if bias is not None and bias.weight is calls[0].seen.weight else None


def unfit_parts(weight: Tensor, watch: Watch) -> str | None:
    """Why a parameter that is applied in parts alone has no layers, in a few words; None where it has, or is whole."""
    parts = parts_of(weight, watch)
    if not parts or None in parts:
        return None
    if not weight.is_contiguous():
        return NOT_CONTIGUOUS
    regions = [region for region in (*parts, *map(bias_inside, parts.values())) if region is not None]
    whole = is_partition(weight, regions)
    return OVERLAPPING if whole is None else None if whole else IN_PART


def _applied(parameter: Tensor, watch: Watch) -> bool:
    """Whether functions apply a parameter as a weight, or parts that make it, and nothing else is made of it."""
    alone = id(parameter) not in watch.others and watch.why_unfit(parameter) is None
    parts = parts_of(parameter, watch) if alone else {}
    one_way = all(len({n.form for n in ns}) == 1 and any(n.why is None for n in ns) for ns in parts.values())
    if not parts or not one_way:
        return False
    return len(parts) == 1 if None in parts else unfit_parts(parameter, watch) is None


def _stands_for(module: nn.Module, weight: Tensor) -> bool:
    """Whether a module's only weight of functions has its name: not where the module is a layer of other weights."""
    own = own_weights(module)
    return own is None or any(p is weight for p in own)


def _added(calls: Sequence[Noted]) -> Seen | None:
    """What all calls add, where it is a parameter or a part of one, as it is."""
    first = calls[0].added
    if first is None or any(n.added is None or not n.added.is_part(first.key) for n in calls):
        return None
    return first


class _Biases:
    """Which parameters, or parts of one, are biases of layers.

    Args:
        watch: what the dry run saw.
        owners: the names of each parameter.
        taken: the ids of those that the layer of a module sets, or a module in weight space has.
    """

    def __init__(self, watch: Watch, owners: Mapping[int, list[str]], taken: Collection[int]) -> None:
        self._watch, self._owners, self._taken = watch, owners, taken
        seen = [call.added for calls in watch.calls.values() for call in calls if call.added is not None]
        self._uses = Counter(id(one.weight) for one in seen)

    def of(self, calls: Sequence[Noted]) -> nn.Parameter | None:
        """The parameter that all calls of a layer add, and that nothing else is made of."""
        bias = _added(calls)
        if bias is None or bias.region is not None or bias.weight.dim() != 1:
            return None
        return self._watch.parameters[id(bias.weight)] if self._alone(bias.weight, len(calls)) else None

    def of_parts(self, parts: Sequence[Sequence[Noted]]) -> Sequence[nn.Parameter | None]:
        """The same for the layers of one weight: also the parts of one parameter, each added by one of them."""
        added = [bias for bias in map(_added, parts) if bias is not None]
        regions = [bias.region for bias in added if bias.region is not None]
        if len(regions) == len(parts) and len({id(bias.weight) for bias in added}) == 1:
            whole = self._watch.parameters.get(id(added[0].weight))
            free = whole is not None and whole.is_contiguous() and self._alone(whole, sum(map(len, parts)))
            if whole is not None and free and is_partition(whole, regions):
                return Part.of(whole, regions)
        return [self.of(calls) for calls in parts]

    def _alone(self, bias: Tensor, times: int) -> bool:
        """Whether nothing else is made of a parameter, which is added so many times."""
        key = id(bias)
        free = key in self._watch.parameters and key not in self._watch.others and key not in self._taken
        return free and len(self._owners[key]) == 1 and self._uses[key] == times
