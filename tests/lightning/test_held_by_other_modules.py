"""Layers whose parameters another module holds from the middle of a fit on: they counted as called no more."""

import pytest
import torch
from torch import nn
from torch.ao.quantization import get_default_qat_qconfig, prepare_qat

from tests.support.fits import Lit, build, data, fit

ADAM = {"optimizer": lambda p: torch.optim.Adam(p, lr=0.002)}


class Own(nn.Linear):
    """A dense layer with a forward of its own, as libraries exchange layers for."""

    def forward(self, x):
        return super().forward(x)


def exchanged(net, index):
    layer = Own(net[index].in_features, net[index].out_features)
    layer.weight, layer.bias = net[index].weight, net[index].bias
    net[index] = layer


def quantised(net):
    net.train()
    net.qconfig = get_default_qat_qconfig("fbgemm")
    prepare_qat(net, inplace=True)


CHANGES = {
    "one layer": (lambda net: exchanged(net, 2), {"net.0", "net.2", "net.4"}),
    "all layers": (lambda net: [exchanged(net, index) for index in (0, 2, 4)], {"net.0", "net.2", "net.4"}),
    "simulated quantisation": (quantised, set()),
}


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization is deprecated", "ignore:.*reduce_range")
@pytest.mark.parametrize(("change", "solved"), CHANGES.values(), ids=CHANGES)
def test_training_goes_on(change, solved):
    class Changed(Lit):
        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                change(self.net)
                self.start = [p.detach().clone() for p in self.parameters()]

    model = build(Changed, **ADAM)
    with pytest.warns(UserWarning, match=r"changed during the fit \(held by other modules: net") as said:
        fit(model, max_epochs=4)
    assert not any("not call" in str(one.message) for one in said)
    space = model.target_space_engine
    assert (set() if space is None else set(space.targets)) == solved
    assert all(not torch.equal(p.detach(), start) for p, start in zip(model.parameters(), model.start, strict=True))
    assert sum(model.losses[-4:]) < sum(model.losses[4:8])
    assert model.eval()(data()[0]).isfinite().all()
