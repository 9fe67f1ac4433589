"""The forward of nn.RNN, nn.LSTM and nn.GRU around their layers: levels, directions, packed sequences and states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from ts_lightning.layers.recurrent.sequences import Dense, Layout, Packed, Sequences

#: what a layer passes on: outputs in the layout, and final states h (and c), each (samples, hidden)
Passed = tuple[Tensor, tuple[Tensor, ...]]


def run_module(module: Any, visit: Callable[[Sequences], Passed], input: Any, hx: Any) -> Any:
    """nn.RNNBase's forward in eval mode, level by level.

    Args:
        module: the module.
        visit: stands for each direction of each level, in the order of the module's weights. A reverse one is given its
            sequences, and returns its outputs, in the order in which it steps through them.
        input: the module's, a tensor or a PackedSequence.
        hx: the module's initial states, or None.

    Returns:
        What the module returns.
    """
    packed = isinstance(input, PackedSequence)
    data: Tensor = input.data if packed else input
    single = not packed and data.dim() == 2
    layout: Layout
    if packed:
        layout = Packed(input.batch_sizes, data.device)
        samples = layout.sizes[0]
    else:
        layout = Dense(1 if module.batch_first else 0)
        data = data.unsqueeze(1 - layout.dim) if single else data
        samples = data.shape[1 - layout.dim]
    states = _initial(module, hx, data, samples, single)
    if packed:
        states = _permuted(states, input.sorted_indices)
    as_given = states if isinstance(module, nn.LSTM) else states[0]
    module.check_forward_args(data, as_given, input.batch_sizes if packed else None)
    final: list[tuple[Tensor, ...]] = []
    while len(final) < module.num_layers * directions(module):
        if final and module.dropout:  # which the pass sees, and its expectation is solved for
            data = functional.dropout(data, module.dropout, training=False)
        outputs = []
        for reverse in range(directions(module)):
            initial = tuple(state[len(final)] for state in states)
            given = Sequences(layout.flip(data) if reverse else data, initial, layout)
            output, last = visit(given)
            outputs.append(layout.flip(output) if reverse else output)
            final.append(last)
        data = torch.cat(outputs, -1) if len(outputs) > 1 else outputs[0]
    states = tuple(torch.stack(state) for state in zip(*final, strict=True))
    if packed:
        states = _permuted(states, input.unsorted_indices)
        result: Any = PackedSequence(data, input.batch_sizes, input.sorted_indices, input.unsorted_indices)
    elif single:
        states = tuple(state.squeeze(1) for state in states)
        result = data.squeeze(1 - layout.dim)  # type: ignore[union-attr]
    else:
        result = data
    return result, states if isinstance(module, nn.LSTM) else states[0]


def passed_on(x: Sequences, states: Sequence[Tensor]) -> Passed:
    """What a layer with these states h (and c) passes on: a copy, since the next layer may change it in place."""
    h, *_ = found = [state.to(x.data.dtype) for state in states]
    return h.clone(), tuple(map(x.layout.last, found))


def directions(module: nn.RNNBase) -> int:
    """One, or two of a bidirectional module."""
    return 2 if module.bidirectional else 1


def _initial(module: nn.RNNBase, hx: Any, data: Tensor, samples: int, single: bool) -> tuple[Tensor, ...]:
    """The initial states, each (levels x directions, samples, hidden); zeros where none are given."""
    lstm = isinstance(module, nn.LSTM)
    if hx is None:
        levels = module.num_layers * directions(module)
        zeros = data.new_zeros(levels, samples, module.hidden_size)
        if not lstm:
            return (zeros,)
        return (data.new_zeros(levels, samples, module.proj_size) if module.proj_size else zeros), zeros
    states = tuple(hx) if lstm else (hx,)
    return tuple(state.unsqueeze(1) for state in states) if single else states


def _permuted(states: tuple[Tensor, ...], order: Tensor | None) -> tuple[Tensor, ...]:
    return states if order is None else tuple(state.index_select(1, order) for state in states)
