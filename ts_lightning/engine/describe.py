"""What a target space does to a model, in one line: what is solved, from what, how it started, what is left and why."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch import nn
from torch.nn.utils import parametrize

from ts_lightning.amount import amount
from ts_lightning.config import Init, TargetSpaceConfig
from ts_lightning.engine.names import is_matrix, join, kind_of, listed, matches, plain_name
from ts_lightning.engine.reference.reference_batch import ReferenceBatch
from ts_lightning.engine.running.batches import batch_size, tensors_in
from ts_lightning.layers.base import TargetLayer
from ts_lightning.layers.registry import family, inner_modules


def described(
    model: nn.Module,
    layers: Sequence[TargetLayer],
    config: TargetSpaceConfig,
    batch: ReferenceBatch,
    started: str,
    reasons: Mapping[str, str],
) -> str:
    """The line.

    Args:
        model: the model.
        layers: what of it is solved.
        config: the settings.
        batch: the reference batch.
        started: how the targets started, see :func:`start_of`.
        reasons: why a layer stays in weight space, by names, as far as the survey found out.
    """
    solved = {id(p) for layer in layers for p in layer.wholes}
    everything = {plain_name(name): module for name, module in model.named_modules()}
    whole = {id(part): name for name, module in everything.items() for part in inner_modules(module)}
    of_wholes = {name: reasons.get(whole[id(module)]) for name, module in everything.items() if id(module) in whole}
    reasons = {**{name: why for name, why in of_wholes.items() if why is not None}, **reasons}
    modules = {}
    for name, module in everything.items():
        # of a layer whose weight is frozen, a bias may be left
        if any(p.requires_grad and (is_matrix(p) or name in reasons) for p in module.parameters(recurse=False)):
            if isinstance(module, parametrize.ParametrizationList):  # it stands for the module whose weight it makes
                name = name.rpartition(".parametrizations.")[0]
            modules[name] = everything[name]
    left = {
        name: module
        for name, module in modules.items()
        if not any(id(p) in solved for p in module.parameters(recurse=False))
    }
    # of modules that are solved in part, as those that hold the weights of several functions
    parts = {
        join(name, own): (name, module, p)
        for name, module in modules.items()
        for own, p in module.named_parameters(recurse=False)
        if name not in left and p.requires_grad and is_matrix(p) and id(p) not in solved
    }
    trained = [p for p in model.parameters() if p.requires_grad]
    share = sum(p.numel() for p in trained if id(p) in solved) / max(1, sum(p.numel() for p in trained))
    count = f"{len(modules) - len(left)} of {amount(len(modules) + len(parts), 'layer')}"
    text = f"Target space: {count} ({100 * share:.1f} % of the trainable parameters), {_samples(batch)}, {started}"
    kinds: dict[str, list[str]] = {}
    for name, module in left.items():
        own = [join(name, n) for n, p in module.named_parameters(recurse=False) if p.requires_grad and is_matrix(p)]
        # the model itself has no name, and the parameters that it holds beside its modules do
        one_by_one = not name or any(n in reasons for n in own)
        for shown in own if one_by_one else [name]:
            why = _why(config, shown if shown in reasons else name, module, reasons)
            kinds.setdefault(why, []).append(shown)
    for name, (holder, module, _) in parts.items():
        known = {name: reasons[holder], **reasons} if holder in reasons else reasons
        kinds.setdefault(_why(config, name, module, known), []).append(name)
    rest = [f"{listed(names)} ({why})" for why, names in kinds.items()]
    held = solved | {id(p) for module in left.values() for p in module.parameters(recurse=False)}
    held |= {id(p) for *_, p in parts.values()}
    if any(id(p) not in held for p in trained):
        rest.append("norms and other vectors")
    if rest:
        text += f"; in weight space: {', '.join(rest)}"
    return f"{text}."


def start_of(init: Init, layers: Sequence[TargetLayer], given: Collection[str], restored: bool) -> str:
    """How targets start, in words.

    Args:
        init: the setting.
        layers: what is solved.
        given: the names of the layers that "auto" starts from their weights.
        restored: from a state.
    """
    if restored:
        return "targets restored"
    if init == "weights" or len(given) == len(layers):
        return "start from the weights"
    named = f", {listed([layer.name for layer in layers if layer.name in given])} from the weights" if given else ""
    return f"start {'normalised' if init == 'auto' else init}{named}"


def _samples(batch: ReferenceBatch) -> str:
    if callable(batch.data):
        return "a reference function of your own"
    if batch.shards is not None:
        return amount(batch.shards.samples, "reference sample")
    count = batch_size(batch.data)
    if count is None:
        return f"a reference batch of type {type(batch.data).__name__}"
    if len({len(tensor) for tensor in tensors_in(batch.data) if tensor.dim() > 0}) > 1:  # texts end to end, a graph
        return "a reference batch whose tensors differ in length"
    return amount(count, "reference sample")


def _why(config: TargetSpaceConfig, name: str, module: nn.Module, reasons: Mapping[str, str]) -> str:
    """Why a layer is left in weight space."""
    path = kind_of(module)
    if matches(name, *config.exclude):
        return f"{path}: excluded"
    if config.layers is not None and not matches(name, *config.layers):
        return f"{path}: not among layers"
    if name in reasons:
        return f"{path}: {reasons[name]}"
    return f"{path}: {'not supported' if family(module) is None else 'cannot be solved here'}"
