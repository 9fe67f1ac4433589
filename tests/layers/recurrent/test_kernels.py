"""The run of the reference through an RNN and a GRU on a CPU, against PyTorch's own kernels."""

import pytest
import torch

from tests.layers.recurrent.test_recurrent import CELLS
from tests.support.exactness import close
from ts_lightning import TargetSpaceConfig
from ts_lightning.layers.recurrent.kernels import has_run
from ts_lightning.layers.recurrent.sequences import Dense, Packed, Sequences
from ts_lightning.layers.registry import family


@pytest.mark.parametrize("steps", [1, 7])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("cell", ["tanh", "relu", "gru"])
def test_outputs_and_gradients_are_those_of_pytorch(cell, batch_first, bias, steps):
    torch.manual_seed(0)
    kind, options = CELLS[cell]
    module = kind(3, 4, bias=bias, batch_first=batch_first, **options).double()
    x = torch.randn((5, steps, 3) if batch_first else (steps, 5, 3), dtype=torch.float64, requires_grad=True)
    h0 = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    (layer,) = family(module).of("rnn", module, TargetSpaceConfig())
    values = list(module.parameters())
    given = Sequences(x, (h0,), Dense(1 if batch_first else 0))
    assert has_run(given)
    found, (last,) = layer.run(given, values)
    expected, final = module(x, h0.unsqueeze(0))
    assert close(found, expected, 1e-13)
    assert close(last, final[0], 1e-13)
    arriving, at_the_end = torch.randn_like(expected), torch.randn_like(last)

    def gradients(output, state):
        return torch.autograd.grad([output, state], [x, h0, *values], [arriving, at_the_end])

    for one, other in zip(gradients(found, last), gradients(expected, final[0]), strict=True):
        assert close(one, other, 1e-12)


def test_sequences_of_several_lengths_are_left_to_pytorch():
    lengths = torch.tensor([3, 2])
    assert not has_run(Sequences(torch.randn(5, 3), (torch.zeros(3, 4),), Packed(lengths, torch.device("cpu"))))
