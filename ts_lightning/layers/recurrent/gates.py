"""The states of an LSTM and a GRU whose gates are given at every step: all in parallel but for one elementwise scan.

Both write tanh(x) as 2 sigmoid(2 x) - 1, which PyTorch computes several times faster on a CPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ts_lightning.layers.recurrent.sequences import Layout, scan, scan_backward


def _tanh(x: Tensor) -> Tensor:
    return torch.sigmoid(2 * x).mul_(2).sub_(1)


class _LSTMStates(torch.autograd.Function):
    """(T, c0) -> (h, c), gates i, f, g, o from unit x T (..., 4 hidden), and a forget bias; c_t = f c_(t-1) + i g."""

    @staticmethod
    def forward(
        ctx: Any, t: Tensor, c0: Tensor, layout: Layout, unit: float, forget_bias: float
    ) -> tuple[Tensor, Tensor]:
        hidden = t.shape[-1] // 4
        gain, offset = t.new_full((4, hidden), unit), t.new_zeros(4, hidden)
        gain[2], offset[1] = 2 * unit, forget_bias
        s = torch.addcmul(offset.flatten(), t, gain.flatten()).sigmoid_()
        i, f, g, o = s.chunk(4, -1)
        c = scan(f, (2 * g).sub_(1).mul_(i), c0, layout)
        th = _tanh(c)
        ctx.layout, ctx.unit = layout, unit
        ctx.save_for_backward(s, c, th, c0)
        ctx.set_materialize_grads(False)
        return o * th, c

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh: Tensor | None, dc: Tensor | None) -> Any:
        s, c, th, c0 = ctx.saved_tensors
        i, f, g, o = s.chunk(4, -1)
        dt = torch.empty_like(s)
        di, df, dg, do = dt.chunk(4, -1)
        if dh is None:
            do.zero_()
            dc = torch.zeros_like(c) if dc is None else dc.clone()
        else:
            torch.mul(dh, th, out=do).mul_(ctx.unit)
            arriving = torch.ops.aten.tanh_backward(dh * o, th)
            dc = arriving if dc is None else arriving.add_(dc)
        dc, dc0 = scan_backward(f, dc, ctx.layout)
        du = dc * ctx.unit
        torch.mul(du, (2 * g).sub_(1), out=di)
        torch.mul(du, ctx.layout.before(c, c0), out=df)
        torch.mul(du, i, out=dg).mul_(4)  # 2 of the gain in sigmoid(2 t), 2 of tanh = 2 sigmoid - 1
        torch.ops.aten.sigmoid_backward.grad_input(dt, s, grad_input=dt)
        return dt, dc0, None, None, None


class _GRUStates(torch.autograd.Function):
    """(T, h0) -> h, gates r, z, n_x, n_h from unit x T (..., 4 hidden); h_t = z h_(t-1) + (1 - z) tanh(n_x + r n_h)."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, h0: Tensor, layout: Layout, unit: float) -> Tensor:
        hidden = t.shape[-1] // 4
        r, z = (unit * t[..., : 2 * hidden]).sigmoid_().chunk(2, -1)
        nx, nh = t[..., 2 * hidden :].chunk(2, -1)
        n = _tanh(torch.addcmul(nx, r, nh).mul_(unit))
        h = scan(z, torch.addcmul(n, z, n, value=-1), h0, layout)
        ctx.layout, ctx.unit = layout, unit
        ctx.save_for_backward(t, r, z, n, h, h0)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh: Tensor) -> Any:
        t, r, z, n, h, h0 = ctx.saved_tensors
        dt = torch.empty_like(t)
        dr, dz, dx, dn = dt.chunk(4, -1)
        du, dh0 = scan_backward(z, dh.clone(), ctx.layout)
        inner = torch.ops.aten.tanh_backward(torch.addcmul(du, z, du, value=-1), n)
        du *= ctx.unit
        torch.mul(du, torch.ops.aten.sigmoid_backward(ctx.layout.before(h, h0).sub_(n), z), out=dz)
        torch.mul(inner, ctx.unit, out=dx)
        torch.mul(dx, r, out=dn)
        torch.mul(torch.addcmul(dn, dn, r, value=-1), t.chunk(4, -1)[3], out=dr).mul_(ctx.unit)
        return dt, dh0, None, None


def lstm_states(t: Tensor, c0: Tensor, layout: Layout, unit: float, forget_bias: float) -> tuple[Tensor, Tensor]:
    """Outputs h and memory c, each (..., hidden), for unit x ``t`` (..., 4 hidden), forget bias apart."""
    h, c = _LSTMStates.apply(t, c0, layout, unit, forget_bias)  # type: ignore[no-untyped-call]
    return h, c


def gru_states(t: Tensor, h0: Tensor, layout: Layout, unit: float) -> Tensor:
    """Outputs h (..., hidden) for unit x ``t`` (..., 4 hidden)."""
    return _GRUStates.apply(t, h0, layout, unit)  # type: ignore[no-any-return, no-untyped-call]
