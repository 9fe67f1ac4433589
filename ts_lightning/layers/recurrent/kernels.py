"""The real run of the reference batch through an RNN and a GRU on a CPU, in half the time of PyTorch's own kernels.

There PyTorch has autograd record every step. Here a step is one product, gates = W' [x_t, 1, h_(t-1)], and few
elementwise operations in place. Backward too: every factor of the gradient but what arrives is computed for all steps
at once, and so is the gradient on W. All is kept with the samples last, (steps, ..., samples), where every gate of a
step is one piece of memory. An LSTM, several lengths and other devices are left to PyTorch's kernels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ts_lightning.layers.recurrent.sequences import Dense, Sequences


def _inputs(x: Tensor, h0: Tensor, w: Tensor) -> Tensor:
    """[x_t, 1, h_(t-1)], (steps + 1, d, samples), of which h is yet to come but the first."""
    steps, samples, inputs = x.shape
    z = x.new_empty(steps + 1, len(w), samples)
    z[:-1, :inputs] = x.mT
    z[:, inputs : len(w) - h0.shape[1]] = 1  # nothing where there is no bias
    z[0, -h0.shape[1] :] = h0.mT
    return z


def _outputs(z: Tensor, hidden: int) -> Tensor:
    """All h, (steps, samples, hidden)."""
    return z[1:, -hidden:].mT.contiguous()


def _input_gradients(z: Tensor, dgates: Tensor, w: Tensor, inputs: int | None) -> tuple[Tensor | None, Tensor]:
    """The gradients on x (steps, samples, inputs), for ``inputs`` None not computed, and on W (d, gates x hidden)."""
    dx = None if inputs is None else torch.matmul(w[:inputs], dgates).mT
    # as one product, since one for each step would be a matrix of W's size for each
    return dx, z[:-1].transpose(0, 1).flatten(1) @ dgates.transpose(0, 1).flatten(1).mT


class _RNNRun(torch.autograd.Function):
    """(x, h0, W) -> h, h_t = act(W' [x_t, 1, h_(t-1)]), time-major."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, h0: Tensor, w: Tensor, relu: bool) -> Tensor:
        hidden = h0.shape[1]
        z, wt, activate = _inputs(x, h0, w), w.mT.contiguous(), torch.relu_ if relu else torch.tanh_
        for now, output in zip(z[:-1].unbind(), z[1:, -hidden:].unbind(), strict=True):
            activate(torch.mm(wt, now, out=output))
        ctx.relu, ctx.hidden, ctx.inputs = relu, hidden, x.shape[-1] if ctx.needs_input_grad[0] else None
        ctx.save_for_backward(z, w)
        return _outputs(z, hidden)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh: Tensor) -> Any:
        z, w = ctx.saved_tensors
        wh, h = w[-ctx.hidden :].contiguous(), z[1:, -ctx.hidden :]
        slope = (h > 0).to(h.dtype) if ctx.relu else torch.addcmul(h.new_ones(()), h, h, value=-1)
        dgates = dh.mT.clone(memory_format=torch.contiguous_format)
        steps = list(zip(dgates.unbind(), slope.unbind(), strict=True))
        for t in range(len(steps) - 1, 0, -1):
            now, slope_t = steps[t]
            steps[t - 1][0].addmm_(wh, now.mul_(slope_t))
        first = steps[0][0].mul_(steps[0][1])
        dx, dw = _input_gradients(z, dgates, w, ctx.inputs)
        return dx, (wh @ first).mT, dw, None


class _GRURun(torch.autograd.Function):
    """(x, h0, W) -> h, gates r, z, n_x, n_h, h_t = z h_(t-1) + (1 - z) tanh(n_x + r n_h); time-major."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, h0: Tensor, w: Tensor) -> Tensor:
        hidden = h0.shape[1]
        z, wt = _inputs(x, h0, w), w.mT.contiguous()
        s = x.new_empty(len(x), 4, hidden, len(h0))  # r, z, n, n_h
        parts = (z[:-1], z[:-1, -hidden:], s.flatten(1, 2), s[:, :2], s, z[1:, -hidden:])
        for now, before, gates, rz, (r, keep, n, nh), output in zip(*(part.unbind() for part in parts), strict=True):
            torch.mm(wt, now, out=gates)
            rz.sigmoid_()
            torch.lerp(n.addcmul_(r, nh).tanh_(), before, keep, out=output)
        ctx.hidden, ctx.inputs = hidden, x.shape[-1] if ctx.needs_input_grad[0] else None
        ctx.save_for_backward(z, s, w)
        return _outputs(z, hidden)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh: Tensor) -> Any:
        z, s, w = ctx.saved_tensors
        wh = w[-ctx.hidden :].contiguous()
        dh = dh.mT.clone(memory_format=torch.contiguous_format)
        r, keep, n, nh = s.unbind(1)
        # factors to dh first
        dgates = torch.empty_like(s)
        dr, dkeep, dn, dnh = dgates.unbind(1)
        torch.mul(1 - keep, torch.addcmul(n.new_ones(()), n, n, value=-1), out=dn)
        torch.mul(dn, r, out=dnh)
        torch.mul(dnh, nh, out=dr).mul_(1 - r)
        torch.sub(z[:-1, -ctx.hidden :], n, out=dkeep).mul_(keep).mul_(1 - keep)
        steps = list(zip(*(part.unbind() for part in (dh, dgates, dgates.flatten(1, 2), keep)), strict=True))
        for t in range(len(steps) - 1, -1, -1):
            dh_t, gates, flat, keep_t = steps[t]
            gates.mul_(dh_t)
            if t > 0:
                steps[t - 1][0].addcmul_(dh_t, keep_t).addmm_(wh, flat)
        dx, dw = _input_gradients(z, dgates.flatten(1, 2), w, ctx.inputs)
        return dx, torch.addmm(dh_t * keep_t, wh, flat).mT, dw


def has_run(x: Sequences) -> bool:
    """Whether these sequences are run here: those of one length on a CPU."""
    return isinstance(x.layout, Dense) and x.data.device.type == "cpu"


def _run(function: type[torch.autograd.Function], x: Sequences, w: Tensor, *options: bool) -> Tensor:
    """``function`` of time-major data, the initial state, W in the precision of the data, and options."""
    assert isinstance(x.layout, Dense)
    data, w = x.data.transpose(0, x.layout.dim), w.to(x.data.dtype)
    h: Tensor = function.apply(data, x.initial[0], w, *options)  # type: ignore[no-untyped-call]
    return h.transpose(0, x.layout.dim)


def rnn_run(x: Sequences, w: Tensor, relu: bool) -> Tensor:
    """Outputs h in the layout, of an nn.RNN with W (inputs + 1 + hidden, hidden); ``relu`` in the place of tanh."""
    return _run(_RNNRun, x, w, relu)


def gru_run(x: Sequences, w: Tensor) -> Tensor:
    """Outputs h in the layout, of an nn.GRU with W (inputs + 1 + hidden, 4 hidden) for r, z, n_x, n_h."""
    return _run(_GRURun, x, w)
