"""Norms that are put into eval mode, or taken out of it, when targets were made already, as by ``on_train_start``.

Layers behind such a norm have other inputs from then on. Given weights stay: they are solved around anew. Targets that
were restored are those of the mode that training goes on in, and are solved to their weights again.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from ts_lightning.engine.cascade import Cascade


class FrozenNorms:
    """The norms of one model that keep their running statistics while it trains.

    Args:
        model: the model.
        cascade: the solve of its layers.
        restored: whether the targets were restored.
    """

    def __init__(self, model: nn.Module, cascade: Cascade, restored: bool) -> None:
        self._model, self._cascade, self._restored = model, cascade, restored
        self._norms = [module for module in model.modules() if isinstance(module, _NormBase)]
        self._frozen = self._now() if model.training else []

    def follow(self) -> None:
        """Let given weights stay if others are frozen than at the last call; before targets are moved."""
        if not self._cascade.solution.exists:
            return
        restored, self._restored = self._restored, False
        if not self._model.training or (now := self._now()) == self._frozen:
            return
        self._frozen = now
        anchored = {layer.module_name for layer in self._cascade.layers if layer.anchor is not None}
        if restored:
            self._cascade.solve()
        elif anchored:
            self._cascade.adopt(anchored)

    def _now(self) -> list[nn.Module]:
        return [norm for norm in self._norms if not norm.training]
