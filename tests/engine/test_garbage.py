"""What a step made is freed when its last name is gone: nothing of the package waits for Python's garbage collector,
which counts objects and not bytes, and runs when gigabytes of solved weights may wait for it."""

import gc
import weakref

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from tests.support.processes import run
from ts_lightning import ReferenceConfig, TargetSpace, TargetSpaceConfig, TargetSpaceMixin, TargetSpaceMonitor


class Functions(nn.Module):
    """A weight by its function, a layer that is used twice, functional dropout, and derivatives of an input."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 6))
        self.twice = nn.Linear(6, 6)

    def forward(self, x):
        x = functional.dropout(functional.linear(x, self.weight), 0.1, self.training)
        return self.twice(torch.tanh(self.twice(x)))


class Last(nn.Module):
    """The last output of a recurrent layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x.unflatten(1, (3, 2)))[0][:, -1]


def dense():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, 6))


def convolutional():
    layers = (nn.Conv2d(1, 3, 2), nn.ReLU(), nn.ConvTranspose2d(3, 2, 2), nn.Flatten(), nn.Linear(12, 6))
    return nn.Sequential(nn.Unflatten(1, (1, 2, 3)), *layers)


def attention():
    return nn.Sequential(
        nn.Unflatten(1, (3, 2)), nn.TransformerEncoderLayer(2, 1, 4, 0.1, batch_first=True), nn.Flatten()
    )


MODELS = {
    "dense": dense,
    "convolutional": convolutional,
    "attention": attention,
    "functions": Functions,
    "lstm": lambda: Last(nn.LSTM(2, 6, num_layers=2, dropout=0.1, batch_first=True)),
    "gru": lambda: Last(nn.GRU(2, 6, batch_first=True)),
}


@pytest.fixture(autouse=True, scope="module")
def _only_what_is_made_here_is_looked_through():
    """A collection goes through all objects that there are, of which every import leaves hundred thousands."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Garbage:
    """What of the package only the garbage collector frees within the block."""

    def __enter__(self):
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        return self

    def __exit__(self, *raised):
        gc.collect()
        gc.set_debug(0)
        gc.enable()
        self.found = [x for x in gc.garbage if str(getattr(x, "__module__", "")).startswith("ts_lightning")]
        gc.garbage.clear()


def made(name, untangle, through=True):
    torch.manual_seed(0)
    model, x = MODELS[name](), torch.randn(16, 6)
    how = {"untangle": untangle, "cascade_gradient": through}
    space = TargetSpace(model, x, TargetSpaceConfig(**how, reference=ReferenceConfig(size=16)))
    return model, space, x


@pytest.mark.parametrize("untangle", [1, 3, "auto"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("through", [True, False])
def test_a_step_leaves_no_cycle(name, untangle, through):
    model, space, x = made(name, untangle, through)
    optimizer = torch.optim.Adam(space.parameters(), lr=0.01)

    def step():
        optimizer.zero_grad()
        model(x).square().mean().backward()
        space.pullback()
        optimizer.step()
        space.solve()

    step()  # what is looked at once
    with Garbage() as garbage:
        for _ in range(4):
            step()
    assert not garbage.found


def nodes(space):
    """The nodes of the package's own operations in the graph of a solve, as weak references."""
    found, waiting = {}, [value.grad_fn for _, value in space.cascade.solution.pairs]
    while waiting:
        node = waiting.pop()
        if node is not None and id(node) not in found:
            found[id(node)] = node
            waiting += [following for following, _ in node.next_functions]
    return [weakref.ref(node) for node in found.values() if isinstance(node, torch.autograd.function.BackwardCFunction)]


@pytest.mark.parametrize("untangle", [1, 3, "auto"])
@pytest.mark.parametrize("name", MODELS)
def test_a_graph_ends_with_the_next_untangling(name, untangle):
    """Cycles through what a graph saves are none that the garbage collector finds."""
    model, space, x = made(name, untangle)
    before = nodes(space)
    assert before
    model(x).square().mean().backward()
    space.pullback()
    space.cascade.untangling.end_period()
    space.solve()
    assert not any(node() for node in before)
    assert any(node() for node in nodes(space))


class Fitted(TargetSpaceMixin, LightningModule):
    def __init__(self):
        super().__init__()
        self.net = dense()

    def training_step(self, batch, batch_idx):
        return self.net(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Watched(Callback):
    """Of the steps behind the first."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if batch_idx == 1:
            self.garbage = Garbage().__enter__()

    def on_train_epoch_end(self, trainer, module):
        self.garbage.__exit__()


def fitted(folder, **options):
    """What a fit leaves to the garbage collector."""
    torch.set_num_threads(1)
    module, watched = Fitted(), Watched()
    module.target_space = TargetSpaceConfig(reference=ReferenceConfig(size=16))
    loader = DataLoader(TensorDataset(torch.randn(32, 6)), 4)
    quiet = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    more = options.pop("callbacks", [])
    settings = {"accelerator": "cpu", "max_epochs": 1, "default_root_dir": folder, "logger": False, **quiet, **options}
    Trainer(callbacks=[watched, *more], **settings).fit(module, loader)
    return [type(found).__name__ for found in watched.garbage.found]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"precision": "bf16-mixed"},
        {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1},
    ],
    ids=["as it is", "mixed precision", "accumulated and clipped"],
)
def test_a_fit_leaves_no_cycle(options, tmp_path):
    assert not fitted(tmp_path, **options)


def test_an_observed_fit_leaves_no_cycle(tmp_path):
    logger = CSVLogger(tmp_path, "", "")
    assert not fitted(tmp_path, logger=logger, log_every_n_steps=1, callbacks=[TargetSpaceMonitor(1)])


def test_a_fit_by_two_processes_leaves_no_cycle(tmp_path):
    assert run(fitted, tmp_path, ranks=2, strategy="ddp", devices=2) == [[], []]
