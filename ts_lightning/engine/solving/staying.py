"""Given weights stay when the inputs of their layers change and nothing was trained.

A norm may be put into eval mode, or taken out of it, when targets were made already, as by ``on_train_start``. A hook
or the first training step may write a buffer or an attribute that ``forward`` reads, as a scale that is measured on the
first batch. Layers behind these have other inputs from then on, and given weights are solved around anew. Targets that
were restored are those of the mode that training goes on in, and are solved to their weights again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from ts_lightning.engine.solving.solution import Solution
from ts_lightning.engine.targets.partition import Partition
from ts_lightning.layers.base import TargetLayer
from ts_lightning.ridge.precision import cast


class Staying:
    """The given weights of one model, and the norms that keep their running statistics while it trains.

    Args:
        model: the model.
        layers: those of its layers that are solved.
        solution: the last solve.
        partition: the processes' shares.
        solve: solves all weights and writes them.
        adopt: solves around the weights of modules, by name.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[TargetLayer],
        solution: Solution,
        partition: Partition,
        solve: Callable[[], None],
        adopt: Callable[[Collection[str] | None], None],
    ) -> None:
        self._model, self._layers, self._solution, self._partition = model, layers, solution, partition
        self._solve, self._adopt = solve, adopt
        self._norms = [module for module in model.modules() if isinstance(module, _NormBase)]
        self._frozen: list[nn.Module] = []
        self._restored = self._looked = False

    def begin(self, restored: bool) -> None:
        """Targets were made, or restored."""
        self._restored = self._looked = restored
        self._frozen = self._now() if self._model.training else []

    def follow(self) -> None:
        """Let given weights stay if other norms are frozen than at the last call; before targets are moved."""
        if not self._solution.exists:
            return
        restored, self._restored = self._restored, False
        if not self._model.training or (now := self._now()) == self._frozen:
            return
        self._frozen = now
        if restored:
            self._solve()
        elif given := self._given():
            self._adopt(given)

    def before_pullback(self, remake: Callable[[], None]) -> None:
        """Let given weights stay also if something else changed, in the first step; later ones are not looked at.

        Args:
            remake: makes the solution anew from what there is, without writing it.
        """
        self.follow()
        looked, self._looked = self._looked, True
        given = set() if looked or self._solution.kept else self._given()
        if not given:
            return
        parameters = {id(p) for layer in self._layers if layer.module_name in given for p in layer.parameters}
        remake()
        pairs = [(p, value) for p, value in self._solution.pairs if id(p) in parameters]
        moves = pairs[0][0].new_tensor(any(not torch.equal(p, cast(value, p.dtype)) for p, value in pairs))
        self._partition.same([moves])
        self._solution.accept(copied=self._partition.replicated)
        if moves:
            self._adopt(given)

    def _given(self) -> set[str]:
        """The modules that are solved around given weights."""
        return {layer.module_name for layer in self._layers if layer.anchor is not None}

    def _now(self) -> list[nn.Module]:
        return [norm for norm in self._norms if not norm.training]
