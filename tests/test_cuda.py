"""The same on a CUDA device: exact gradients, fits in every precision, and resuming bit for bit."""

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.plugins.precision import MixedPrecision

from tests.layers.recurrent.test_recurrent import CELLS, STEP
from tests.layers.recurrent.test_recurrent import case as recurrent_case
from tests.support import resuming
from tests.support.devices import needs_cuda
from tests.support.equality import NETWORKS
from tests.support.exactness import check_exact
from tests.support.fits import CONFIG, Lit, Plain, assert_equal, build, data, fit
from tests.support.nets import Conv, Dense, loss_on
from tests.support.processes import run as in_processes
from ts_lightning import ReferenceConfig, TargetSpace, TargetSpaceConfig, TargetSpaceError

pytestmark = needs_cuda
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true")


@pytest.mark.parametrize(("method", "rows"), [("scu", "all"), ("scu", 20), ("scu", 3), ("ocu", "all")])
@pytest.mark.parametrize(
    "make",
    [
        lambda: Dense(3, 6, 3, 3, norm=True, wiring="residual"),
        lambda: Conv(2, 3, 4, 3, kernel_size=3, padding=1),
        lambda: Conv(2, 4, 4, 3, kernel_size=3, padding="same", groups=2, padding_mode="circular", norm=True),
    ],
)
def test_exact(make, rows, method):
    torch.manual_seed(0)
    model = make().to("cuda", torch.float64)
    shape = (24, 3) if isinstance(model, Dense) else (6, model.first.in_channels, 5, 4)
    reference, x = (torch.randn(shape, dtype=torch.float64, device="cuda") for _ in range(2))
    y = torch.arange(len(x), device="cuda") % 3
    config = TargetSpaceConfig(method=method, reference=ReferenceConfig(rows=rows))
    check_exact(model, (reference,), loss_on(x, y), config)


@pytest.mark.parametrize("rows", ["all", 14])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("stack", ["one", "stacked both ways"])
@pytest.mark.parametrize("cell", CELLS)
def test_exact_recurrent(cell, stack, packed, rows):
    model, reference, loss = recurrent_case(cell, stack, packed=packed)
    config = TargetSpaceConfig(ridge=0.1, reference=ReferenceConfig(rows=rows))
    check_exact(
        model.cuda(), (reference.cuda(),), lambda run: loss(lambda x: run(x.cuda()).cpu()), config, step=STEP[cell]
    )


@pytest.mark.parametrize("init", ["projected", "normalised", "weights"])
@pytest.mark.parametrize(
    "make", [lambda: Conv(2, 3, 4, 3, kernel_size=3), lambda: recurrent_case("gru", "one", packed=True)[0]]
)
def test_starts(make, init):
    """As on a CPU: what is drawn does not depend on the device."""
    found = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        model = make().to(device, torch.float64)
        generator = torch.Generator().manual_seed(0)
        shape = (5, 3, 6, 5) if isinstance(model, Conv) else (5, 6, 2)
        reference = torch.randn(shape, generator=generator, dtype=torch.float64)
        space = TargetSpace(model, reference.to(device), TargetSpaceConfig(ridge=0.1, init=init))
        found.append(
            [p.detach().cpu() for p in model.parameters()] + [t.detach().cpu() for t in space.targets.values()]
        )
    for value, expected in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_fit(precision):
    model = build(Lit, norm=True)
    state = torch.cuda.get_rng_state()
    fit(model, accelerator="gpu", max_epochs=60, precision=precision)
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert all(target.is_cuda for target in model.target_space_engine.targets.values())
    assert model.losses[-1] < 0.4 * model.losses[0]


@pytest.mark.filterwarnings("error:RNN module weights")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_fit_recurrent(precision):
    class Read(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.out = torch.nn.LSTM(1, 8, batch_first=True), torch.nn.Linear(8, 2)

        def forward(self, x):
            return self.out(self.rnn(x.unsqueeze(-1))[0][:, -1])

    model = build(Lit)
    model.net = Read()
    fit(model, accelerator="gpu", max_epochs=60, precision=precision)
    assert_solved(model)
    assert model.losses[-1] < 0.8 * model.losses[0]


def assert_solved(model):
    """The weights are those that another solve gives."""
    model.cuda()  # from where it was trained, Lightning takes it back
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    model.target_space_engine.solve()
    for name, value in model.named_parameters():
        torch.testing.assert_close(value.detach(), before[name], rtol=1e-4, atol=1e-5)


def test_overflow_skips_the_step():
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**80, growth_interval=10**6)
    model = build(Lit, norm=True)
    start = [t.clone() for t in build(Lit, norm=True).parameters()]
    fit(model, accelerator="gpu", max_epochs=40, plugins=[MixedPrecision("16-mixed", "cuda", scaler=scaler)])
    assert scaler.get_scale() < 2.0**30
    assert all(p.isfinite().all() for p in model.parameters())
    assert not all(torch.equal(p.cpu(), q) for p, q in zip(model.parameters(), start, strict=True))
    assert_solved(model)


@pytest.mark.parametrize("level", ["high", "medium"])
def test_reduced_float32_never_reaches_the_solve(level):
    torch.manual_seed(0)
    reference = torch.randn(64, 512, device="cuda")
    first = torch.nn.Sequential(torch.nn.Linear(512, 256), torch.nn.Tanh(), torch.nn.Linear(256, 10))
    found = {}
    for setting in ("highest", level):
        torch.set_float32_matmul_precision(setting)
        try:
            torch.manual_seed(1)
            for layer in first[::2]:
                layer.reset_parameters()
            space = TargetSpace(first.cuda(), reference)
            product = reference @ reference.T
            found[setting] = [product, *(p.detach().clone() for p in first.parameters())]
            assert len(space.targets) == 2
        finally:
            torch.set_float32_matmul_precision("highest")
    assert not torch.equal(found[level][0], found["highest"][0])  # the setting does something here
    for value, expected in zip(found[level][1:], found["highest"][1:], strict=True):
        assert torch.equal(value, expected)


def test_float64_by_itself_where_float32_cannot_hold_the_gram_matrix():
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2).cuda()
    reference = torch.randn(50, 3, device="cuda") * torch.tensor([1e4, 1.0, 1.0], device="cuda")
    space = TargetSpace(layer, reference, TargetSpaceConfig(ridge=1e-3, ridge_scale="absolute"))
    (target,), (unit,) = space.targets.values(), space.units.values()
    a = torch.cat([reference, torch.ones_like(reference[:, :1])], 1).double()
    expected = torch.linalg.solve(a.T @ a + 1e-3 * torch.eye(4, device="cuda"), a.T @ (target.double() * unit))
    torch.testing.assert_close(layer.weight.double().T, expected[:3], rtol=1e-4, atol=1e-7)


def test_a_nan_names_the_layer():
    model = build(Plain).cuda()
    space = TargetSpace(model, data()[0][:32].cuda(), CONFIG)
    with torch.no_grad():
        space.targets["net.2"][3, 1] = torch.nan
    with pytest.raises(TargetSpaceError, match=r"net\.2.*NaN"):
        space.solve()
    space.release()
    with pytest.raises(TargetSpaceError, match=r"net\.0.*NaN"):
        TargetSpace(model, torch.full((32, 3), torch.nan, device="cuda"), CONFIG)


@pytest.mark.parametrize("strategy", ["auto", "target_space", "target_space_ddp", "ddp"])
def test_strategies(strategy):
    model, other = build(Lit), build(Lit)
    fit(model, accelerator="gpu", strategy=strategy, use_distributed_sampler=False)
    fit(other, accelerator="gpu")
    assert_solved(model)
    assert_equal(model.cpu(), other.cpu())


@pytest.mark.parametrize(
    "options", [{}, {"precision": "bf16-mixed"}, {"precision": "16-mixed"}, {"accumulate_grad_batches": 2}]
)
def test_resuming_at_any_step_gives_the_same_bits(options, tmp_path):
    options = {"accelerator": "gpu", "deterministic": True, **options}
    whole = resuming.fit(resuming.build(), callbacks=[resuming.every_step(tmp_path)], **options)
    files = sorted(tmp_path.iterdir())
    assert len(files) == whole.global_step > 5
    expected = resuming.everything(whole)
    for file in files[::3]:
        run = resuming.fit(resuming.build(seed=7), ckpt_path=file, **options)
        assert_equal(resuming.everything(run), expected)


def test_a_checkpoint_of_a_gpu_goes_on_on_a_cpu(tmp_path):
    resuming.fit(resuming.build(), accelerator="gpu", callbacks=[resuming.every_step(tmp_path)])
    run = resuming.fit(resuming.build(seed=7), ckpt_path=tmp_path / "step=8.ckpt")
    whole = resuming.fit(resuming.build())
    for value, expected in zip(run.lightning_module.parameters(), whole.lightning_module.parameters(), strict=True):
        torch.testing.assert_close(value, expected, rtol=0.05, atol=0.02)


def sharded(name, device):
    """The weights after some steps, in as many processes as there are; gloo, since they share a device."""
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    cls = NETWORKS[name]
    model = cls().to(device, torch.float64)
    generator = torch.Generator().manual_seed(1)
    reference, x = (torch.randn(n, *cls.shape, generator=generator, dtype=torch.float64) for n in (cls.size, 6))
    reference, x, y = reference.to(device), x.to(device), (torch.arange(6) % 3).to(device)
    space = TargetSpace(model, reference, TargetSpaceConfig(step_scale=5.0), group=dist.group.WORLD)
    optimizer = torch.optim.SGD(space.parameters(), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        for parameter in model.parameters():
            dist.all_reduce(parameter.grad)  # cuDNN adds up in any order
            parameter.grad /= 2
        space.pullback()
        optimizer.step()
        space.solve()
    return torch.cat([p.detach().cpu().flatten() for p in model.parameters()])


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "Words"])  # whose gradients are sparse
def test_two_processes_sharing_a_device_equal_two_on_a_cpu(name):
    expected, *_ = in_processes(sharded, name, "cpu", ranks=2)
    found = in_processes(sharded, name, "cuda", ranks=2, timeout=120)
    assert torch.equal(*found)
    torch.testing.assert_close(found[0], expected, rtol=1e-7, atol=1e-9)
