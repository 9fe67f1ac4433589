"""Which module is solved by which family of layers."""

from __future__ import annotations

from torch import nn

from ts_lightning.layers.attention.projections import InProjection, has_two_projections
from ts_lightning.layers.base import TargetLayer
from ts_lightning.layers.conv.convolution import ConvTargets
from ts_lightning.layers.linear import LinearTargets
from ts_lightning.layers.recurrent.cells import GRULayer, LSTMLayer, RNNLayer

FAMILIES: dict[type[nn.Module], type[TargetLayer]] = {
    nn.Linear: LinearTargets,
    nn.Conv1d: ConvTargets,
    nn.Conv2d: ConvTargets,
    nn.Conv3d: ConvTargets,
    nn.RNN: RNNLayer,
    nn.LSTM: LSTMLayer,
    nn.GRU: GRULayer,
    nn.MultiheadAttention: InProjection,
}


def family(module: nn.Module) -> type[TargetLayer] | None:
    """The family that can solve ``module``, or None.

    A subclass counts only if it computes what its base class computes, and a weight only if it is a parameter of its
    own, without parametrization.
    """
    if isinstance(module, nn.MultiheadAttention):
        weighted = has_two_projections(module)
    else:
        names = getattr(module, "_flat_weights_names", ["weight"])
        weighted = all(module._parameters.get(name) is not None for name in names)
    if not weighted:
        return None
    for base, targets in FAMILIES.items():
        if isinstance(module, base):
            cls = type(module)
            same = cls.forward is base.forward
            if issubclass(base, nn.modules.conv._ConvNd):
                same = same and cls._conv_forward is base._conv_forward  # type: ignore[attr-defined]
            return targets if same else None
    return None
