"""CUDA graphs of the solve and the pull-back: the same training, and without them where they cannot be.

On a GPU, and on a CPU with what stands for graphs there (``tests/support/graph_stand_in.py``).
"""

import warnings

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.nn import functional

from tests.support.devices import needs_cuda
from tests.support.fits import Lit, build, fit
from tests.support.graph_stand_in import install
from tests.support.loops import Cells
from ts_lightning import ReferenceConfig, TargetSpace, TargetSpaceConfig, TargetSpaceError, TargetSpaceMonitor


@pytest.fixture(params=[pytest.param("cuda", marks=needs_cuda), "cpu"])
def device(request, monkeypatch):
    """Where a test runs."""
    if request.param == "cpu":
        install(monkeypatch)
    return request.param


class Read(nn.Module):
    """Embedding, recurrent layer, norm and readout, of which embedding and norm are trained beside the targets."""

    def __init__(self, cell):
        super().__init__()
        self.embedding, self.norm = nn.Embedding(9, 5), nn.LayerNorm(7)
        self.rnn, self.out = cell(5, 7, batch_first=True), nn.Linear(7, 3)

    def forward(self, x):
        return self.out(self.norm(self.rnn(self.embedding(x))[0][:, -1]))


def images():
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 3))


def encoder():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(48, 3))


ACCELERATORS = {"cuda": "gpu", "cpu": "cpu"}
NETWORKS = {
    "dense": (
        lambda: nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 3)),
        (12,),
    ),
    "wide": (lambda: nn.Sequential(nn.Linear(12, 200), nn.Tanh(), nn.Linear(200, 3)), (12,)),
    "images": (images, (3, 8, 8)),
    "lstm": (lambda: Read(nn.LSTM), None),
    "gru": (lambda: Read(nn.GRU), None),
    "rnn": (lambda: Read(nn.RNN), None),
    "attention": (encoder, (6, 8)),
}


def case(device, name, rows="auto", **settings):
    torch.manual_seed(0)
    build_, shape = NETWORKS[name]
    x = torch.randint(9, (40, 6)) if shape is None else torch.randn(40, *shape)
    model = build_().to(device)
    config = TargetSpaceConfig(reference=ReferenceConfig(rows=rows), **settings)
    x = x.to(device)
    return TargetSpace(model, x, config), model, x


def train(space, model, x, steps=12):
    """As loops are written: the loss, and with it autograd's graph, is there until the next one."""
    optimizer = torch.optim.Adam(space.parameters(), lr=0.002)
    y = torch.arange(len(x), device=x.device) % 3
    for _ in range(steps):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        space.pullback()
        optimizer.step()
        space.solve()
    return [p.detach().clone() for p in model.parameters()]


def recorded(space):
    graphs = space.cascade.solution.graphs
    return graphs is not None and graphs.replayed and len(graphs._pulls) > 0


def close(found, expected, start):
    """Whether what changed did so alike."""
    return all(
        float((value - other).norm()) <= 1e-3 * float((other - first).norm()) + 1e-6
        for value, other, first in zip(found, expected, start, strict=True)
    )


@pytest.mark.filterwarnings("error:cuda_graphs")
@pytest.mark.parametrize(("name", "rows"), [*((name, "auto") for name in NETWORKS), ("images", "all")])
def test_trains_as_without(name, rows, device):
    found = []
    for graphs in (False, True):
        space, model, x = case(device, name, rows, cuda_graphs=graphs)
        start = [p.detach().clone() for p in model.parameters()]
        found.append(train(space, model, x))
        assert graphs == recorded(space)
    assert close(found[1], found[0], start)


@pytest.mark.filterwarnings("error:cuda_graphs")
def test_a_new_reference_batch_is_recorded_anew(device):
    found = []
    for graphs in (False, True):
        space, model, x = case(device, "images", cuda_graphs=graphs)
        train(space, model, x)
        start = [p.detach().clone() for p in model.parameters()]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*do not span")
            space.refresh(x.flip(-1))
        found.append(train(space, model, x))
        assert graphs == recorded(space)
    assert close(found[1], found[0], start)


def test_what_needs_float64_goes_on_without(device):
    space, model, x = case(device, "dense", cuda_graphs=True)
    train(space, model, x)
    assert recorded(space)
    with torch.no_grad():
        space.cascade.reference.batch.data[:, 0] += 3e4
    with pytest.warns(UserWarning, match="cuda_graphs: .*needed float64"):
        space.solve()
    assert not recorded(space)
    assert all(p.isfinite().all() for p in train(space, model, x, 3))


def test_a_nan_names_the_layer(device):
    space, model, x = case(device, "dense", cuda_graphs=True)
    train(space, model, x)
    with torch.no_grad():
        space.targets["2"][3, 1] = torch.nan
    with pytest.warns(UserWarning, match="cuda_graphs"), pytest.raises(TargetSpaceError, match=r"'2'.*NaN"):
        space.solve()


@needs_cuda
def test_a_look_at_numbers_goes_on_without():
    class Looks(nn.Sequential):
        def forward(self, x):
            return super().forward(x) * float(x.abs().max() >= 0)

    torch.manual_seed(0)
    model = Looks(nn.Linear(12, 20), nn.Tanh(), nn.Dropout(0.1), nn.Linear(20, 3)).cuda()
    x = torch.randn(40, 12, device="cuda")
    space = TargetSpace(model, x, TargetSpaceConfig(cuda_graphs=True))
    with pytest.warns(UserWarning, match="cuda_graphs: .*recording failed"):
        train(space, model, x)
    assert not recorded(space)
    # nothing is left of the attempt
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert torch.rand(3, device="cuda").isfinite().all()
    assert all(p.isfinite().all() for p in train(space, model, x))


def test_a_recurrent_layer_in_weight_space_goes_on_without(device):
    space, model, x = case(device, "lstm", cuda_graphs=True, exclude=["rnn"])
    with pytest.warns(UserWarning, match="cuda_graphs: .*a recurrent layer is left in weight space"):
        train(space, model, x)
    assert not recorded(space)


def test_a_loop_goes_on_without(device):
    torch.manual_seed(0)
    model, x = Cells("LSTM").to(device), torch.randn(40, 4, 3).to(device)
    space = TargetSpace(model, x, TargetSpaceConfig(cuda_graphs=True))
    with pytest.warns(UserWarning, match="cuda_graphs: .*a loop of layers takes a run"):
        train(space, nn.Sequential(model, nn.Flatten(), nn.Linear(8, 3).to(device)), x)
    assert not recorded(space)


@pytest.mark.filterwarnings("error:cuda_graphs")
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_some_layers_alone(name, device):
    """As with optimizers that are toggled: another way back, recorded beside the first one and after other steps."""
    found = []
    for graphs in (False, True):
        space, model, x = case(device, name, cuda_graphs=graphs)
        train(space, model, x)
        first, *_, last = space.layers
        space.targets[first.name].requires_grad_(False)
        for _ in range(2):
            space.solve()
            model.zero_grad()
            for target in space.targets.values():
                target.grad = None
            functional.cross_entropy(model(x), torch.arange(len(x), device=device) % 3).backward()
            for parameter in last.parameters:
                parameter.grad = None
            space.pullback()
        assert not graphs or len(space.cascade.solution.graphs._pulls) == 2
        found.append([p.grad for p in space.parameters()])
    for value, expected in zip(found[1], found[0], strict=True):
        assert (value is None) == (expected is None)
        assert value is None or float((value - expected).norm()) <= 1e-3 * float(expected.norm()) + 1e-9


@pytest.mark.filterwarnings("error:cuda_graphs")
def test_an_overflow_is_no_reason_to_go_on_without(device):
    space, model, x = case(device, "images", cuda_graphs=True)
    train(space, model, x, 3)
    for factor in (torch.inf, torch.inf, 1.0):
        space.solve()
        model.zero_grad()
        (factor * functional.cross_entropy(model(x), torch.arange(len(x), device=device) % 3)).backward()
        space.pullback()
    assert recorded(space)


def test_what_keeps_its_activations_is_recorded_all_the_same(device):
    class Keeps(nn.Sequential):
        def forward(self, x):
            self.last = super().forward(x)
            return self.last

    torch.manual_seed(0)
    model = Keeps(nn.utils.weight_norm(nn.Linear(12, 20)), nn.LayerNorm(20), nn.Tanh(), nn.Linear(20, 3)).to(device)
    x = torch.randn(40, 12, device=device)
    space = TargetSpace(model, x, TargetSpaceConfig(cuda_graphs=True, exclude=["0"]))
    train(space, model, x)
    assert recorded(space)


class Replays(Callback):
    """Steps after which the last solve was a replay."""

    def __init__(self):
        self.steps = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if recorded(pl_module.target_space_engine):
            self.steps.append(trainer.global_step)


@pytest.mark.filterwarnings("error:cuda_graphs")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate_grad_batches": 2},
        {"precision": "bf16-mixed"},
        pytest.param({"precision": "16-mixed"}, marks=needs_cuda),
        {"precision": "64-true"},
        {"strategy": "ddp", "use_distributed_sampler": False},
    ],
)
def test_under_a_trainer(options, device):
    found = []
    for graphs in (False, True):
        model, replays = build(Lit, norm=True), Replays()
        model.target_space = TargetSpaceConfig(reference=ReferenceConfig(size=32), cuda_graphs=graphs)
        run = fit(model, accelerator=ACCELERATORS[device], max_epochs=5, callbacks=[replays], **options)
        found.append(torch.cat([p.detach().cpu().flatten() for p in model.parameters()]))
        assert (len(replays.steps) > run.global_step / 2) == graphs
    torch.testing.assert_close(*found, rtol=0.05, atol=0.02)


@pytest.mark.filterwarnings("error:cuda_graphs")
def test_observed_steps_have_none(tmp_path, device):
    model, replays = build(Lit, norm=True), Replays()
    model.target_space = TargetSpaceConfig(reference=ReferenceConfig(size=32), cuda_graphs=True)
    monitor = TargetSpaceMonitor(every_n_steps=5)
    options = {"logger": CSVLogger(tmp_path), "log_every_n_steps": 5, "max_epochs": 5}
    fit(model, accelerator=ACCELERATORS[device], callbacks=[replays, monitor], **options)
    assert replays.steps == [step for step in range(4, 21) if step % 5]
