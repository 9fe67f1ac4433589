"""The patch matrix A of a convolution: its products and its Gram matrix, without building A.

A has one row per (image, output position) and one column per (kernel offset, channel), offsets in C order, with a last
column of ones if the layer has a bias; groups are a leading dimension. Inputs are (N, C, *space).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_CHUNK = 2**23  # elements of the largest temporary in gram()


@dataclass(frozen=True)
class Geometry:
    """Sizes of one convolution, without its batch. ``padding`` is what the convolution itself pads with zeros."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]
    groups: int
    prepad: tuple[int, ...]  # F.pad's order; done before, for other modes and for asymmetric "same"
    mode: str

    @classmethod
    def of(cls, module: nn.Module) -> Geometry:
        """The geometry of an nn.Conv1d, nn.Conv2d or nn.Conv3d."""
        m: Any = module
        mode = "constant" if m.padding_mode == "zeros" else m.padding_mode
        return cls.with_padding(m.kernel_size, m.stride, m.dilation, m.padding, m.groups, mode)

    @classmethod
    def with_padding(
        cls,
        kernel: tuple[int, ...],
        stride: tuple[int, ...],
        dilation: tuple[int, ...],
        padding: str | Sequence[int],
        groups: int,
        mode: str = "constant",
    ) -> Geometry:
        """The geometry of PyTorch's options; ``mode`` is that of F.pad."""
        if isinstance(padding, str):
            totals = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
            sides = [(total // 2, total - total // 2) for total in totals]
        else:
            sides = [(p, p) for p in padding]
        ahead = mode != "constant" or any(low != high for low, high in sides)
        prepad = tuple(p for side in reversed(sides) for p in side) if ahead else ()
        own = tuple(0 if ahead else low for low, _ in sides)
        return cls(kernel, stride, dilation, own, groups, prepad, mode)

    def pad(self, x: Tensor) -> Tensor:
        """``x`` with the padding that the convolution cannot do itself; differentiable."""
        return functional.pad(x, self.prepad, mode=self.mode) if any(self.prepad) else x

    def outputs(self, x: Tensor) -> tuple[int, ...]:
        """The output's size in space, for padded ``x``."""
        sizes = zip(x.shape[2:], self.kernel, self.stride, self.dilation, self.padding, strict=True)
        return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, d, p in sizes)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """A W."""
        zeros = (0,) * len(self.kernel)
        return torch.convolution(x, weight, bias, self.stride, self.padding, self.dilation, False, zeros, self.groups)

    def backward(self, dz: Tensor, x: Tensor, weight: Tensor, groups: int, mask: list[bool]) -> Any:
        """Gradients of :meth:`convolve`: A'dz laid out as the weight, dz W' gathered into the input, as masked."""
        zeros = [0] * len(self.kernel)
        return torch.ops.aten.convolution_backward(
            dz, x, weight, None, self.stride, self.padding, self.dilation, False, zeros, groups, [*mask, False]
        )

    def to_matrix(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Weight (out, C / groups, *kernel) and bias (out,) as W (groups, d, out / groups)."""
        w = weight.reshape(self.groups, -1, weight.shape[1], math.prod(self.kernel))
        w = w.permute(0, 3, 2, 1).reshape(self.groups, -1, w.shape[1])
        return w if bias is None else torch.cat([w, bias.reshape(self.groups, 1, -1)], 1)

    def to_weight(self, w: Tensor, bias: bool) -> tuple[Tensor, Tensor | None]:
        """The inverse of :meth:`to_matrix`."""
        b = w[:, -1].reshape(-1) if bias else None
        w = w[:, :-1] if bias else w
        w = w.reshape(self.groups, math.prod(self.kernel), -1, w.shape[-1]).permute(0, 3, 2, 1)
        return w.reshape(-1, w.shape[2], *self.kernel), b

    def rows(self, z: Tensor) -> Tensor:
        """A layer's output (N, out, *space) as rows (groups, N * positions, out / groups)."""
        z = z.movedim(1, -1).reshape(-1, self.groups, z.shape[1] // self.groups)
        return z.transpose(0, 1)

    def moments(self, x: Tensor, bias: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """A'A (groups, d, d), its lower triangle at least, and the sums of A's columns (groups, d), for padded ``x``.

        Without the patches along the first axis.

        Patches are laid out along all axes of space but the first: U[q] is (images x positions, offsets x channels) for
        input row q. With stride 1 the block of A'A at first-axis offsets (i, j) depends on the lag j - i alone, but for
        the few rows that a window leaves out: one product of U with itself per lag, k in place of k (k + 1) / 2, each
        over inputs rather than outputs. With a stride the blocks are computed one by one.
        """
        rest = math.prod(self.outputs(x)[1:])
        width = x.shape[2] * rest * math.prod(self.kernel[1:]) * x.shape[1]
        chunk = max(1, _CHUNK // width)
        gram, sums = self._moments_chunk(x[:chunk].to(dtype), bias)
        for part in torch.split(x[chunk:], chunk):
            more = self._moments_chunk(part.to(dtype), bias)
            gram += more[0]
            sums += more[1]
        return gram, sums

    def _strips(self, x: Tensor) -> Tensor:
        """U (groups, rows of the first axis, images * positions, offsets * channels)."""
        spatial = len(self.kernel)
        first = (self.padding[0], self.padding[0]) if self.stride[0] > 1 else (0, 0)
        pads = [p for p in reversed(self.padding[1:]) for _ in range(2)]
        x = functional.pad(x, [*pads, *first]).movedim(1, -1)  # (N, *space, C)
        out = self.outputs_of_padded(x)
        x = x.contiguous()
        size = [x.shape[0], x.shape[1], *out, *self.kernel[1:], x.shape[-1]]
        steps = x.stride()[2 : 1 + spatial]
        stride = [
            *x.stride()[:2],
            *(step * s for step, s in zip(steps, self.stride[1:], strict=True)),
            *(step * d for step, d in zip(steps, self.dilation[1:], strict=True)),
            x.stride()[-1],
        ]
        u = x.as_strided(size, stride).transpose(0, 1)  # (rows, N, *positions, *offsets, C)
        offsets, rows = math.prod(self.kernel[1:]), size[1]
        if self.groups == 1:
            return u.reshape(1, rows, -1, offsets * size[-1])
        u = u.reshape(rows, -1, offsets, self.groups, size[-1] // self.groups)
        return u.permute(3, 0, 1, 2, 4).reshape(self.groups, rows, -1, offsets * (size[-1] // self.groups))

    def outputs_of_padded(self, x: Tensor) -> list[int]:
        """Positions along all axes but the first, of padded ``x`` (N, *space, C)."""
        sizes = zip(x.shape[2:-1], self.kernel[1:], self.stride[1:], self.dilation[1:], strict=True)
        return [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in sizes]

    def _moments_chunk(self, x: Tensor, bias: bool) -> tuple[Tensor, Tensor]:
        outputs = self.outputs(x)[0]
        u = self._strips(x)
        groups, rows, _, width = u.shape
        k, stride, dilation = self.kernel[0], self.stride[0], self.dilation[0]
        d = k * width + bias
        gram = u.new_empty(groups, d, d)
        # the rows q of u that offset i sees: q = start(i) + stride * position
        starts = [i * dilation - (self.padding[0] if stride == 1 else 0) for i in range(k)]

        def product(low: slice, high: slice) -> Tensor:
            return u[:, high].flatten(1, 2).mT @ u[:, low].flatten(1, 2)

        for lag in range(k):
            shift = lag * dilation
            if stride == 1:
                # a lag no shorter than the input meets nothing but padding
                whole = product(slice(0, max(rows - shift, 0)), slice(min(shift, rows), rows))
            for i in range(k - lag):
                j, start = i + lag, starts[i]
                if stride == 1:
                    seen = range(max(start, 0), min(start + outputs, rows - shift))
                    block = whole
                    for cut in (range(0, min(seen.start, rows - shift)), range(max(seen.stop, 0), rows - shift)):
                        if len(seen) and len(cut):
                            block = block - product(
                                slice(cut.start, cut.stop), slice(cut.start + shift, cut.stop + shift)
                            )
                    if not len(seen):
                        block = torch.zeros_like(whole)
                else:
                    last = stride * (outputs - 1) + 1
                    low, high = slice(start, start + last, stride), slice(starts[j], starts[j] + last, stride)
                    block = product(low, high)
                gram[:, j * width : (j + 1) * width, i * width : (i + 1) * width] = block
        sums = gram.new_empty(groups, d)
        row_sums = u.sum(2)
        for i, start in enumerate(starts):
            if stride == 1:
                seen_rows = slice(max(start, 0), max(min(start + outputs, rows), 0))
            else:
                seen_rows = slice(start, start + stride * (outputs - 1) + 1, stride)
            sums[:, i * width : (i + 1) * width] = row_sums[:, seen_rows].sum(1)
        if bias:
            sums[:, -1] = x.shape[0] * math.prod(self.outputs(x))
            gram[:, -1] = sums
        return gram, sums

    def spread(self, gain: Tensor, x: Tensor) -> Tensor:
        """For ``gain`` (groups, d without bias): its sum over the windows that see each input entry, (1, C, *space)."""
        channels = x.shape[1]
        gain = gain.reshape(self.groups, math.prod(self.kernel), -1).transpose(1, 2).reshape(channels, 1, *self.kernel)
        ones = gain.new_ones(1, channels, *self.outputs(x))
        like = gain.new_empty(1, *x.shape[1:])
        return self.backward(ones, like, gain, channels, [True, False])[0]  # type: ignore[no-any-return]


class PatchRows:
    """A fixed choice of rows of the patch matrix, gathered from the input.

    Args:
        geometry: the convolution.
        x: an input, padded by ``geometry.pad``.
        rows: indices of the rows (image, position) in C order, shape (rows,); ``None`` for all.
    """

    def __init__(self, geometry: Geometry, x: Tensor, rows: Tensor | None) -> None:
        self.geometry = geometry
        outputs = geometry.outputs(x)
        index = torch.arange(x.shape[0] * math.prod(outputs)) if rows is None else rows.cpu()
        image = index // math.prod(outputs)
        position = torch.stack(torch.unravel_index(index % math.prod(outputs), outputs), -1)  # (rows, axes)
        offset = torch.cartesian_prod(*(torch.arange(k) for k in geometry.kernel)).reshape(-1, len(outputs))
        stride, dilation = torch.tensor(geometry.stride), torch.tensor(geometry.dilation)
        place = (position * stride - torch.tensor(geometry.padding)).unsqueeze(1) + offset * dilation
        sizes = torch.tensor(x.shape[2:])
        inside = ((place >= 0) & (place < sizes)).all(-1)
        place = place.clamp(min=torch.zeros_like(sizes), max=sizes - 1)
        flat = image.unsqueeze(1)
        for axis, size in enumerate(x.shape[2:]):
            flat = flat * size + place[..., axis]
        self.index = flat.reshape(-1).to(x.device)  # (rows * offsets,) into (images * space)
        self.offsets = offset.shape[0]
        self.inside = None if inside.all() else inside.reshape(-1, 1).to(x.device)
        beyond = x.shape[0] * x.shape[2:].numel()  # where gradients on padding go
        outside = ~inside.reshape(-1).to(x.device)
        self.into = self.index if self.inside is None else self.index.masked_fill(outside, beyond)

    def gather(self, x: Tensor, bias: bool) -> Tensor:
        """A (groups, rows, d), differentiable in ``x``."""
        groups = self.geometry.groups
        a = _Gather.apply(x, self.index, self.into, self.inside)  # type: ignore[no-untyped-call]
        if groups == 1:
            a = a.view(1, -1, self.offsets * x.shape[1])
        else:
            a = a.view(-1, self.offsets, groups, x.shape[1] // groups).permute(2, 0, 1, 3).flatten(2)
        return torch.cat([a, a.new_ones(*a.shape[:2], 1)], 2) if bias else a  # type: ignore[no-any-return]


class _Gather(torch.autograd.Function):
    """Input entries (rows * offsets, C) from x (N, C, *space); zero where ``inside`` is false.

    ``into`` is ``index`` where it is inside, and one place behind all others elsewhere.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, into: Tensor, inside: Tensor | None) -> Tensor:
        ctx.shape, ctx.into = x.shape, into
        places = x.flatten(2).mT  # (N, positions, C)
        if len(index) < places.shape[:2].numel():
            positions = places.shape[1]
            a = places[index // positions, index % positions]
        else:  # the copy with its channels last pays
            a = places.reshape(-1, x.shape[1])[index]
        return a if inside is None else a.mul_(inside)

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> tuple[Tensor, None, None, None]:
        n, channels, *space = ctx.shape
        dx = da.new_zeros(n * math.prod(space) + 1, channels).index_add_(0, ctx.into, da)[:-1]
        return dx.view(n, *space, channels).movedim(-1, 1), None, None, None
