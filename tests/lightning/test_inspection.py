"""ts_lightning.inspect on LightningModules and others."""

import pytest
import torch
from torch import nn

import ts_lightning
from tests.support.fits import Lit, Plain, build, data
from ts_lightning import TargetSpaceConfig, TargetSpaceMixin


@pytest.mark.parametrize("kind", [Plain, Lit])
def test_a_module_is_called_with_a_training_batch_as_in_a_fit(kind):
    model = build(kind)
    before = [p.detach().clone() for p in model.parameters()]
    batch = data()
    found = ts_lightning.inspect(model, batch, batch_size=16)
    assert found.samples == len(batch[0])
    assert any(row.why is None for row in found.rows)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    assert str(found).splitlines()[0].startswith(f"{kind.__name__}: ")


def test_a_reference_forward_and_settings_of_its_own_count():
    class Own(TargetSpaceMixin, Plain):
        target_space = TargetSpaceConfig(exclude=["extra"])

        def __init__(self):
            super().__init__()
            self.extra = nn.Linear(2, 2)

        def reference_forward(self, batch):
            Own.calls += 1
            return self(batch["x"])

        calls = 0

    model = Own()
    found = ts_lightning.inspect(model, {"x": data()[0]})
    assert Own.calls > 0
    assert ("extra", "excluded") in [(row.name, row.why) for row in found.rows]


def test_another_module_is_called_with_its_inputs():
    found = ts_lightning.inspect(nn.Bilinear(2, 3, 4), (torch.randn(9, 2), torch.randn(9, 3)))
    assert [row.sizes[0].inputs for row in found.rows] == [7]


@pytest.mark.parametrize(("given", "found"), [("net", "a str"), (nn.Linear, "the class Linear")])
def test_what_is_no_module_is_refused_by_name(given, found):
    with pytest.raises(TypeError, match=f"inspect: found {found} as the model; expected a module"):
        ts_lightning.inspect(given, torch.randn(9, 3))
