"""nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d: convolutions of the input with zeros between its entries.

A transposed convolution with stride s, padding p, dilation d and kernel k is a convolution of stride 1 with the flipped
kernel, on the input with s - 1 zeros between its entries along each axis and d (k - 1) - p zeros around it, the output
padding behind these. Its rows are the output's positions. Source: Dumoulin and Visin (2016), arXiv 1603.07285.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from ts_lightning.config import TargetSpaceConfig
from ts_lightning.layers.affine import AffineLayer
from ts_lightning.layers.base import TargetLayer, Visit
from ts_lightning.layers.conv.convolution import ConvTargets
from ts_lightning.layers.conv.patches import Geometry
from ts_lightning.layers.seen import Arrangement


class ConvTransposeTargets(ConvTargets):
    """Targets (N, out, *space), or (rows, out) where rows are sampled, for an input (N, in, *space) that is spread."""

    def __init__(
        self, name: str, module: nn.Module, config: TargetSpaceConfig, weight: Tensor, bias: Tensor | None = None
    ) -> None:
        AffineLayer.__init__(self, name, module, config, weight, bias)
        m: Any = module
        self.width, self.inputs = m.out_channels, weight.shape[0] // m.groups * weight[0, 0].numel()
        self.geometry = spread_geometry(tuple(m.kernel_size), tuple(m.dilation), m.groups)

    @classmethod
    def solves(cls, module: nn.Module, base: type[nn.Module]) -> bool:
        """Whether the module computes what ``base`` does, and has a weight of its own."""
        return super(ConvTargets, cls).solves(module, base)

    @staticmethod
    def forward(
        layers: Sequence[TargetLayer], visit: Visit, input: Tensor, output_size: Sequence[int] | None = None
    ) -> Any:
        """The module's forward: the layer on the spread input."""
        (layer,) = layers
        assert isinstance(layer, AffineLayer)
        m: Any = layer.module
        axes = len(m.kernel_size)
        extra = m._output_padding(input, output_size, m.stride, m.padding, m.kernel_size, axes, m.dilation)
        return layer.visited(visit, spread(input, m.kernel_size, m.stride, m.padding, m.dilation, extra))

    def flat(self, weight: Tensor) -> Tensor:
        """(out, in / groups, *kernel), flipped, for (in, out / groups, *kernel)."""
        return turned(Arrangement(tuple(weight.shape)), self.geometry.groups).of(weight).contiguous()

    def arranged(self, weight: Tensor) -> Tensor:
        """(in, out / groups, *kernel)."""
        return turned(Arrangement(tuple(self.weight.shape)), self.geometry.groups).back(weight).contiguous()


def turned(weight: Arrangement, groups: int) -> Arrangement:
    """A convolution's weight (out, in / groups, *kernel), for the transposed one's (in, out / groups, *kernel)."""
    inputs, outputs, *kernel = weight.shape
    axes = range(len(kernel))
    apart = weight.reshape(groups, inputs // groups, outputs, *kernel).permute(0, 2, 1, *(n + 3 for n in axes))
    return apart.reshape(groups * outputs, inputs // groups, *kernel).flip(*(n + 2 for n in axes))


def spread_geometry(kernel: tuple[int, ...], dilation: tuple[int, ...], groups: int) -> Geometry:
    """That of the convolution of the spread input."""
    ones, zeros = (1,) * len(kernel), (0,) * len(kernel)
    return Geometry.with_padding(kernel, ones, dilation, zeros, groups)


def spread(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    extra: Sequence[int],
) -> Tensor:
    """The input (..., *space) with zeros between and around its entries.

    Args:
        x: the input.
        kernel: sizes of the transposed convolution's kernel.
        stride: of the same.
        padding: of the same.
        dilation: of the same.
        extra: its output padding.
    """
    axes = len(kernel)
    if any(step > 1 for step in stride):
        sizes = [(n - 1) * step + 1 for n, step in zip(x.shape[-axes:], stride, strict=True)]
        between = x.new_zeros(*x.shape[:-axes], *sizes)
        places: tuple[Any, ...] = (..., *(slice(None, None, step) for step in stride))
        between[places] = x
        x = between
    ahead = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True)]
    pads = [n for low, more in zip(reversed(ahead), reversed(list(extra)), strict=True) for n in (low, low + more)]
    return functional.pad(x, pads)  # a negative number takes entries away
