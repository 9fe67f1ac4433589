"""The states of gated cells along given gates, in a unit and with a forget bias, in every layout."""

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from ts_lightning.layers.recurrent.gates import gru_states, lstm_states
from ts_lightning.layers.recurrent.sequences import Dense, Packed

LENGTHS = (4, 3, 1)
LAYOUTS = {
    "steps first": (lambda: Dense(0), (4, 3)),
    "samples first": (lambda: Dense(1), (3, 4)),
    "packed": (
        lambda: Packed(pack_sequence([torch.zeros(n) for n in LENGTHS]).batch_sizes, torch.device("cpu")),
        (sum(LENGTHS),),
    ),
}
CELLS = {
    "lstm": lambda t, state, layout: lstm_states(t, state, layout, 1.7, 0.9),
    "lstm, h": lambda t, state, layout: lstm_states(t, state, layout, 1.7, 0.9)[0],
    "lstm, c": lambda t, state, layout: lstm_states(t, state, layout, 1.7, 0.9)[1],
    "gru": lambda t, state, layout: gru_states(t, state, layout, 1.7),
}


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients(layout, cell):
    torch.manual_seed(0)
    build, shape = LAYOUTS[layout]
    t = torch.randn(*shape, 8, dtype=torch.float64, requires_grad=True)
    state = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t, state: CELLS[cell](t, state, build()), (t, state))
