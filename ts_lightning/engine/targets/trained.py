"""What of a model is trained beside its targets, and what the user has frozen for a while or for good.

Freezing is read off ``requires_grad`` at every solve and pull-back. A layer whose weights the user froze is *held*: it
keeps them and runs with them in the reference pass. Where an optimizer is toggled off, as Lightning does, its targets
are frozen with their weights, and their layers are solved as before. Where training goes on from a state, what it says
holds until the user's hooks have run.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ts_lightning.engine.names import plain_name
from ts_lightning.engine.targets.target import Target
from ts_lightning.layers.base import TargetLayer
from ts_lightning.layers.part import Part


class Trained:
    """The trained parameters of a model whose layers are solved.

    Args:
        model: the model.
        layers: those of its layers that are solved.

    Attributes:
        targets: by layer name.
        held: the names of layers that the user froze.
        solved: the layers' parameters.
        others: what is trained in weight space.
        idle: the names of modules that the forward does not call any more, and of parts of a parameter that it applies
            no more; they are held as those that the user froze.
    """

    def __init__(self, model: nn.Module, layers: Sequence[TargetLayer]) -> None:
        self.targets: Mapping[str, Target] = {}
        self.held: set[str] = set()
        self.idle: set[str] = set()
        self._said_idle: set[str] = set()
        self._model, self._layers = model, layers
        self._toggled: set[str] = set()  # layers that were frozen with their targets
        self.solved = [p for layer in layers for p in layer.parameters]
        solved = self._wholes = {id(p) for layer in layers for p in layer.wholes}
        others = [p for p in model.parameters() if id(p) not in solved]
        self.others = [p for p in others if p.requires_grad]
        self._frozen = [p for p in others if not p.requires_grad]
        self._thawed: list[nn.Parameter] = []  # of the frozen ones, trained since
        self._waiting = False  # whether what is frozen is what a state says, and the user's hooks are yet to run

    def parameters(self) -> Iterator[nn.Parameter]:
        """Every target, then every parameter of the model that is not solved, but for those that were always frozen."""
        yield from self.targets.values()
        if not self._waiting and any(p.requires_grad for p in self._frozen):
            self._thaw()
        yield from self.others

    def count(self) -> int:
        """How many :meth:`parameters` there are."""
        return sum(1 for _ in self.parameters())

    def read(self) -> Iterator[nn.Parameter]:
        """All that a solve depends on: what is trained, and the weights of held layers."""
        yield from self.parameters()
        for layer in self._holding():
            yield from layer.parameters

    def changing(self) -> Iterator[Tensor]:
        """All that optimizers, solves and forwards in training mode may write to."""
        yield from self.parameters()
        yield from self.solved
        yield from self._model.buffers()

    def frozen(self) -> Iterator[nn.Parameter]:
        """The parameters that have never been trained."""
        yield from self._frozen

    def _thaw(self) -> None:
        """Train what was frozen when the targets were made, in weight space."""
        thawed = [p for p in self._frozen if p.requires_grad]
        self.others += thawed
        self._thawed += thawed
        self._frozen = [p for p in self._frozen if not p.requires_grad]
        ids = {id(p) for p in thawed if p.dim() > 1}  # norms and biases are no news
        if ids:
            names = [plain_name(name) for name, p in self._model.named_parameters() if id(p) in ids]
            warnings.warn(
                f"Trained from here on, in weight space: {', '.join(names)}. They were frozen when the targets were "
                f"made, at the start of the fit. To solve these layers, start another fit with them thawed.",
                stacklevel=3,
            )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let a graph be built from all that is trained, also from what a toggled-off optimizer has frozen; and alone.

        What is frozen is frozen in it, also where a state says so and the user's hooks are yet to freeze it: PyTorch
        may compute a product in another way where gradients are wanted.
        """
        trained = [(p, True) for p in self.parameters()]
        held = [p for layer in self._holding() for p in layer.parameters]
        with _flagged(trained + [(p, False) for p in (*held, *self._frozen)]):
            yield

    def settle(self) -> None:
        """Go by what is frozen from here on, since the user's hooks have run."""
        self._waiting = False

    def newly_held(self) -> tuple[set[str], set[str]]:
        """The layers frozen or idle since the last call, all of a module together; and those that thawed."""
        if self._waiting:
            return set(), set()
        if not self.held and not self.idle and all(p.requires_grad for p in self.solved):
            return set(), set()  # in microseconds, since every step asks twice
        frozen = {
            layer.module_name
            for layer in self._layers
            if layer.name not in self._toggled and not all(p.requires_grad for p in layer.parameters)
        }
        kept = [x.name for x in self._layers if x.module_name in frozen or _called_as(x) in self.idle]
        before, self.held = self.held, set(kept)
        self._say_partly(self.held - before)
        return self.held - before, before - self.held

    def rest(self, layers: Collection[str]) -> bool:
        """Hold layers that the forward does not call any more, by name, until :meth:`wake`; whether that was done."""
        new = {_called_as(layer) for layer in self._layers if layer.name in layers} - self.idle
        self.idle |= new
        self.held |= {layer.name for layer in self._layers if _called_as(layer) in new}
        if new - self._said_idle:
            self._said_idle |= new
            warnings.warn(
                f"The forward does not call {', '.join(sorted(new))} any more on the reference batch. The weights stay "
                f"as they are, and train again once they are called and have a gradient.",
                stacklevel=3,
            )
        return bool(new)

    def wake(self) -> None:
        """Hold those no longer whose weights have a gradient, since they are called again."""
        if self.idle:
            asleep = [layer for layer in self._layers if _called_as(layer) in self.idle]
            found = {_called_as(one) for one in asleep for p in one.parameters if p.grad is not None and p.grad.any()}
            self.idle -= found

    def _say_partly(self, held: Collection[str]) -> None:
        """Name the layers of which the user froze a part, which are held as a whole."""
        chosen = [layer for layer in self._layers if layer.name in held and _called_as(layer) not in self.idle]
        modules = {layer.module_name: layer.module for layer in chosen}
        solved = self._wholes
        flags = {name: [p.requires_grad for p in m.parameters() if id(p) in solved] for name, m in modules.items()}
        partly = [name for name, trained in flags.items() if any(trained)]
        if partly:
            warnings.warn(
                f"Held as they are from here on: {', '.join(partly)}, of which a part was frozen. Targets set all "
                f"parameters of a layer together, so that none of them moves until all have thawed. Another fit, that "
                f"starts with the part frozen, trains the rest in weight space.",
                stacklevel=3,
            )

    def moved(self, changed: Iterable[nn.Parameter]) -> list[TargetLayer]:
        """The layers whose targets are among these parameters."""
        ids = set(map(id, changed))
        return [layer for layer in self._layers if id(self.targets[layer.name]) in ids]

    def follow(self) -> None:
        """Freeze the weights whose targets are frozen, and thaw those that were frozen so once their targets thaw."""
        # of a weight in parts, all targets
        thawed = {id(p) for layer in self._layers if self.targets[layer.name].requires_grad for p in layer.wholes}
        frozen = {layer.name for layer in self._layers if thawed.isdisjoint(map(id, layer.wholes))}
        self._toggled |= {x.name for x in self._layers if x.name in frozen and all(p.requires_grad for p in x.wholes)}
        for layer in self._layers:
            if layer.name in self._toggled:
                for parameter in layer.wholes:
                    parameter.requires_grad_(layer.name not in frozen)
        self._toggled &= frozen

    def state_dict(self) -> dict[str, Any]:
        """The weights of held layers, and the names of parameters that were frozen when the targets were made.

        Some of these have thawed since, into weight space; of others the model has another in their place, or more.
        """
        names = {id(p): plain_name(name) for name, p in self._model.named_parameters()}
        trained = {*self._wholes, *map(id, self.others)}
        return {
            "held": copies_of(self._holding()),
            "idle": sorted(self.idle),
            "frozen": [name for number, name in names.items() if number not in trained],
            "thawed": [names[id(p)] for p in self._thawed if id(p) in names],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Hold the layers, and train in weight space the parameters, that :meth:`state_dict` says, frozen or not.

        That is so until :meth:`settle` is called.
        """
        held = state.get("held", {})
        self.held, self._waiting = set(held), True
        self.idle = set(state.get("idle", ()))
        self._said_idle |= self.idle
        write_copies(self._layers, held)
        if "frozen" not in state:  # written by an earlier version
            return
        solved = self._wholes
        rest = {plain_name(name): p for name, p in self._model.named_parameters() if id(p) not in solved}
        frozen, thawed = ([name for name in state[key] if name in rest] for key in ("frozen", "thawed"))
        self._frozen, self._thawed = [rest[name] for name in frozen], [rest[name] for name in thawed]
        # in the order in which optimizers had them
        self.others = [p for name, p in rest.items() if name not in {*frozen, *thawed}] + self._thawed

    def _holding(self) -> list[TargetLayer]:
        """The layers that are held."""
        return [layer for layer in self._layers if layer.name in self.held] if self.held else []


def _called_as(layer: TargetLayer) -> str:
    """The name of what is called with a layer or is not: its module, or the part of a parameter that it is."""
    return layer.name if type(layer.parameters[0]) is Part else layer.module_name


def copies_of(layers: Iterable[TargetLayer]) -> dict[str, list[Tensor]]:
    """Copies of the layers' parameters, by layer name."""
    return {layer.name: [parameter.detach().clone() for parameter in layer.parameters] for layer in layers}


@torch.no_grad()
def write_copies(layers: Iterable[TargetLayer], copies: Mapping[str, Sequence[Tensor]]) -> None:
    """Write what :func:`copies_of` gave to the layers that it names."""
    for layer in layers:
        for parameter, value in zip(layer.parameters, copies.get(layer.name, ()), strict=False):
            parameter.copy_(value)


@contextmanager
def as_when_made(model: nn.Module, state: Mapping[str, Any] | None) -> Iterator[None]:
    """Freeze what was frozen when the targets of a state were made, and nothing else, so that its layers are chosen."""
    if state is None or "frozen" not in state:
        yield
        return
    frozen = {*state["frozen"], *state["thawed"]}
    with _flagged([(p, plain_name(name) not in frozen) for name, p in model.named_parameters()]):
        yield


@contextmanager
def _flagged(flags: Sequence[tuple[nn.Parameter, bool]]) -> Iterator[None]:
    """Train parameters, or freeze them, while it is entered."""
    changed = [(parameter, trained) for parameter, trained in flags if parameter.requires_grad != trained]
    for parameter, trained in changed:
        parameter.requires_grad_(trained)
    try:
        yield
    finally:
        for parameter, trained in changed:
            parameter.requires_grad_(not trained)
