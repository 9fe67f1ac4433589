"""What of a model is trained beside its targets, and what the user has frozen for a while or for good.

Freezing is read off ``requires_grad`` at every solve. A layer whose weights the user froze is *held*: it keeps them and
runs with them in the reference pass. Where an optimizer is toggled off, as Lightning does, its targets are frozen with
their weights, and their layers are solved as before.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from ts_lightning.engine.target import Target
from ts_lightning.layers.base import TargetLayer


class Trained:
    """The trained parameters of a model whose layers are solved.

    Args:
        model: the model.
        layers: those of its layers that are solved.

    Attributes:
        targets: by layer name.
        held: the names of layers that the user froze.
        others: what is trained in weight space.
    """

    def __init__(self, model: nn.Module, layers: Sequence[TargetLayer]) -> None:
        self.targets: Mapping[str, Target] = {}
        self.held: set[str] = set()
        self._model, self._layers = model, layers
        self._toggled: set[str] = set()  # layers that were frozen with their targets
        solved = {id(p) for layer in layers for p in layer.parameters}
        others = [p for p in model.parameters() if id(p) not in solved]
        self.others = [p for p in others if p.requires_grad]
        self._frozen = [p for p in others if not p.requires_grad]

    def parameters(self) -> Iterator[nn.Parameter]:
        """Every target, then every parameter of the model that is not solved, but for those that were always frozen."""
        yield from self.targets.values()
        if any(p.requires_grad for p in self._frozen):
            self._thaw()
        yield from self.others

    def count(self) -> int:
        """How many :meth:`parameters` there are."""
        return sum(1 for _ in self.parameters())

    def changing(self) -> Iterator[Tensor]:
        """All that optimizers, solves and forwards in training mode may write to."""
        yield from self.parameters()
        for layer in self._layers:
            yield from layer.parameters
        yield from self._model.buffers()

    def frozen(self) -> Iterator[nn.Parameter]:
        """The parameters that have never been trained."""
        yield from self._frozen

    def _thaw(self) -> None:
        """Train what was frozen when the targets were made, in weight space."""
        thawed = [p for p in self._frozen if p.requires_grad]
        self.others += thawed
        self._frozen = [p for p in self._frozen if not p.requires_grad]
        ids = {id(p) for p in thawed if p.dim() > 1}  # norms and biases are no news
        if ids:
            names = [name for name, p in self._model.named_parameters() if id(p) in ids]
            warnings.warn(
                f"Trained from here on, in weight space: {', '.join(names)}. They were frozen when the targets were "
                f"made, at the start of the fit. To solve these layers, start another fit with them thawed.",
                stacklevel=3,
            )

    @contextmanager
    def unfrozen(self) -> Iterator[None]:
        """Let a graph be built from all that is trained, also from what a toggled-off optimizer has frozen."""
        frozen = [p for p in self.parameters() if not p.requires_grad]
        for parameter in frozen:
            parameter.requires_grad_(True)
        try:
            yield
        finally:
            for parameter in frozen:
                parameter.requires_grad_(False)

    def newly_held(self) -> tuple[set[str], set[str]]:
        """The layers frozen by the user since the last call, all of a module together; and those that thawed."""
        frozen = {
            layer.module_name
            for layer in self._layers
            if self.targets[layer.name].requires_grad and not all(p.requires_grad for p in layer.parameters)
        }
        before, self.held = self.held, {layer.name for layer in self._layers if layer.module_name in frozen}
        return self.held - before, before - self.held

    def follow(self) -> None:
        """Freeze the weights whose targets are frozen, and thaw those that were frozen so once their targets thaw."""
        for layer in self._layers:
            trained = self.targets[layer.name].requires_grad
            if not trained and all(p.requires_grad for p in layer.parameters):
                self._toggled.add(layer.name)
            if layer.name in self._toggled:
                for parameter in layer.parameters:
                    parameter.requires_grad_(trained)
                if trained:
                    self._toggled.discard(layer.name)
