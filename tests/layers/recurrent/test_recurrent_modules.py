"""Recurrent modules as they are called, trained and saved: packed, without a batch, as the model, in Lightning."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_sequence

from tests.layers.recurrent.test_recurrent import CELLS
from tests.support.fits import Plain, fit, loader, trainer
from ts_lightning import ReferenceConfig, TargetSpace, TargetSpaceConfig, TargetSpaceMixin


@pytest.mark.parametrize("cell", CELLS)
def test_the_order_of_packed_sequences_is_no_matter(cell):
    kind, more = CELLS[cell]
    torch.manual_seed(0)
    sequences = [torch.randn(n, 3, dtype=torch.float64) for n in (5, 3, 2)]
    weights = []
    for order in ([0, 1, 2], [2, 0, 1]):
        torch.manual_seed(1)
        model = kind(3, 4, bidirectional=True, **more).double()
        reference = pack_sequence([sequences[i] for i in order], enforce_sorted=False)
        TargetSpace(model, (reference,), TargetSpaceConfig(ridge=0.1))
        weights.append([p.detach() for p in model.parameters()])
        # the reference pass returns what the module returns with its solved weights
        seen = []
        space = TargetSpace(model, lambda model=model, r=reference, seen=seen: seen.append(model(r)))
        space.solve()
        output, states = model(reference)
        assert torch.equal(seen[-1][0].unsorted_indices, output.unsorted_indices)
        torch.testing.assert_close(seen[-1][0].data, output.data)
        for a, b in zip(_states(seen[-1][1]), _states(states), strict=True):
            torch.testing.assert_close(a, b)
    for a, b in zip(*weights, strict=True):
        torch.testing.assert_close(a, b)


def _states(states):
    return states if isinstance(states, tuple) else (states,)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_one_sequence_without_a_batch_and_a_recurrent_module_as_the_model(cell, batch_first):
    kind, more = CELLS[cell]
    torch.manual_seed(0)
    model = kind(3, 4, num_layers=2, batch_first=batch_first, **more).double()
    x = torch.randn(7, 3, dtype=torch.float64)
    seen = []
    space = TargetSpace(model, lambda: seen.append(model(x)))
    assert list(space.targets) == ["l0", "l1"]
    space.solve()
    output, states = model(x)
    assert seen[-1][0].shape == (7, 4)
    torch.testing.assert_close(seen[-1][0], output)
    for a, b in zip(_states(seen[-1][1]), _states(states), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("cell", CELLS)
def test_targets_take_the_place_of_all_weights_and_the_state_dict_stays(cell):
    kind, more = CELLS[cell]
    model = kind(3, 4, num_layers=2, bidirectional=True, **more)
    names = list(model.state_dict())
    optimizer = torch.optim.Adam(model.parameters())
    space = TargetSpace(model, torch.randn(6, 5, 3))
    space.substitute(optimizer)
    assert list(model.state_dict()) == names
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(t) for t in space.targets.values()]
    model(torch.randn(9, 2, 3))[0].sum().backward()
    space.pullback()
    assert all(p.grad is None for p in model.parameters())
    assert all(t.grad.any() for t in space.targets.values())


@pytest.mark.parametrize("cell", ["tanh", "lstm", "gru"])
def test_training_remembers(cell):
    kind, _ = CELLS[cell]
    torch.manual_seed(0)
    rnn, readout = kind(1, 16), nn.Linear(16, 2)
    model = nn.ModuleList([rnn, readout])
    bits = torch.randint(2, (12, 300, 1))
    x, y = bits.float(), bits[:-6, :, 0]

    def run(x):
        return readout(rnn(x)[0])[6:].flatten(0, 1)

    model.forward = run
    space = TargetSpace(model, x[:, :100], TargetSpaceConfig.paper(0.1))
    optimizer = torch.optim.Adam(space.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        functional.cross_entropy(run(x), y.flatten()).backward()
        space.pullback()
        optimizer.step()
        space.solve()
    # what the input was six steps ago
    assert float((run(x).argmax(-1) == y.flatten()).float().mean()) > 0.9


def test_a_lightning_module_with_a_recurrent_layer_trains_and_goes_on_from_its_checkpoint(tmp_path):
    class Lit(TargetSpaceMixin, Plain):
        target_space = TargetSpaceConfig(ridge=0.01, reference=ReferenceConfig(size=32))

        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(1, 8, batch_first=True, bidirectional=True)
            self.net = nn.Linear(16, 2)

        def forward(self, x):
            return self.net(self.rnn(x.unsqueeze(-1))[0][:, -1])

    torch.manual_seed(0)
    whole = Lit()
    torch.manual_seed(0)
    first = Lit()  # not by load_state_dict, behind which the weights would be kept
    # targets are drawn from the seed
    torch.manual_seed(0)
    fit(whole, max_epochs=4)
    torch.manual_seed(0)
    run = fit(first, max_epochs=2)
    run.save_checkpoint(tmp_path / "last.ckpt")
    second = Lit()
    trainer(max_epochs=4).fit(second, loader(), ckpt_path=tmp_path / "last.ckpt")
    assert first.losses + second.losses == pytest.approx(whole.losses, rel=1e-4)
    for a, b in zip(second.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
