"""Which module is solved by which family of layers."""

from __future__ import annotations

from torch import nn
from torch.nn.parameter import is_lazy

from ts_lightning.config import TargetSpaceConfig
from ts_lightning.layers.attention.projections import InProjection
from ts_lightning.layers.base import TargetLayer
from ts_lightning.layers.bilinear import BilinearTargets
from ts_lightning.layers.conv.convolution import ConvTargets
from ts_lightning.layers.conv.transposed import ConvTransposeTargets
from ts_lightning.layers.linear import LinearTargets
from ts_lightning.layers.recurrent.cells import GRULayer, RNNLayer
from ts_lightning.layers.recurrent.projected import ProjectedLSTMLayer
from ts_lightning.layers.recurrent.single import GRUCellLayer, LSTMCellLayer, RNNCellLayer

_FAMILIES: dict[type[nn.Module], type[TargetLayer]] = {
    nn.Linear: LinearTargets,
    nn.Conv1d: ConvTargets,
    nn.Conv2d: ConvTargets,
    nn.Conv3d: ConvTargets,
    nn.ConvTranspose1d: ConvTransposeTargets,
    nn.ConvTranspose2d: ConvTransposeTargets,
    nn.ConvTranspose3d: ConvTransposeTargets,
    nn.Bilinear: BilinearTargets,
    nn.RNN: RNNLayer,
    nn.LSTM: ProjectedLSTMLayer,
    nn.GRU: GRULayer,
    nn.RNNCell: RNNCellLayer,
    nn.LSTMCell: LSTMCellLayer,
    nn.GRUCell: GRUCellLayer,
    nn.MultiheadAttention: InProjection,
}
_ANY = TargetSpaceConfig()  # what parameters a layer has does not depend on settings


def registered(module: nn.Module) -> tuple[type[nn.Module], type[TargetLayer]] | None:
    """The registered class that ``module`` is nearest to, and its family; None where there is none."""
    return next(((base, _FAMILIES[base]) for base in type(module).__mro__ if base in _FAMILIES), None)


def family(module: nn.Module) -> type[TargetLayer] | None:
    """The family that can solve ``module``, or None; see :meth:`TargetLayer.solves`."""
    found = registered(module)
    return found[1] if found is not None and found[1].solves(module, found[0]) else None


def own_weights(module: nn.Module) -> list[nn.Parameter] | None:
    """The parameters of the layers that ``module`` is, which may hold others beside; None where it is none."""
    kind, own = family(module), list(module.parameters(recurse=False))
    if kind is None or any(is_lazy(p) or not p.numel() for p in own):
        return None if kind is None else own
    return [p for layer in kind.of("", module, _ANY) for p in layer.parameters]


def inherited_forward(module: nn.Module) -> type[nn.Module] | None:
    """The registered class whose forward a module's class has replaced by one of its own; None where it has not."""
    found = registered(module)
    return None if found is None or type(module).forward is found[0].forward else found[0]


def inner_modules(module: nn.Module) -> list[nn.Module]:
    """Submodules of ``module`` that are no layers themselves; see :meth:`TargetLayer.inner_modules`."""
    found = registered(module)
    return [] if found is None else list(found[1].inner_modules(module))


def moves_weights(module: nn.Module) -> bool:
    """Whether PyTorch moves the weights of ``module`` in memory; see :attr:`TargetLayer.moves_weights`."""
    found = registered(module)
    return found is not None and found[1].moves_weights


def register_layer(module: type[nn.Module], family: type[TargetLayer]) -> None:
    """Let modules of a class be solved from targets, as layers of ``family``.

    Subclasses of ``module`` that keep its ``forward`` are solved too. A class that is registered already, nn.Linear for
    one, has the new family from then on.

    Args:
        module: the class. For :class:`~ts_lightning.layers.linear.LinearTargets` its ``forward(x)`` has to compute
            ``x @ weight.T + bias`` for parameters ``weight`` (out, in) and ``bias`` (out,) or None.
        family: :class:`~ts_lightning.layers.linear.LinearTargets`, or a subclass of it or of
            :class:`~ts_lightning.layers.base.TargetLayer`.

    Raises:
        TypeError: one of them is not such a class.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from ts_lightning import TargetSpace, register_layer
        >>> from ts_lightning.layers.linear import LinearTargets
        >>> class Dense(nn.Module):
        ...     def __init__(self, inputs, outputs):
        ...         super().__init__()
        ...         self.weight = nn.Parameter(torch.zeros(outputs, inputs))
        ...         self.bias = nn.Parameter(torch.zeros(outputs))
        ...     def forward(self, x):
        ...         return x @ self.weight.T + self.bias
        >>> register_layer(Dense, LinearTargets)
        >>> space = TargetSpace(nn.Sequential(Dense(3, 4), nn.Tanh(), Dense(4, 2)), torch.randn(10, 3))
        >>> {name: tuple(target.shape) for name, target in space.targets.items()}
        {'0': (10, 4), '2': (10, 2)}
    """
    if not (isinstance(module, type) and issubclass(module, nn.Module)):
        raise TypeError(f"register_layer: found {module!r}; expected a subclass of nn.Module.")
    if not (isinstance(family, type) and issubclass(family, TargetLayer)):
        raise TypeError(
            f"register_layer: found the family {family!r}; expected LinearTargets of ts_lightning.layers.linear, or "
            f"another subclass of TargetLayer of ts_lightning.layers.base."
        )
    _FAMILIES[module] = family


def supported() -> str:
    """The names of all registered classes, for messages."""
    return ", ".join(f"nn.{base.__name__}" if _of_torch(base) else base.__name__ for base in _FAMILIES)


def _of_torch(base: type[nn.Module]) -> bool:
    return base.__module__.startswith("torch.nn.")
