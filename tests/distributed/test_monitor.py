"""Two processes that share a reference batch log what one does, and draw the same histograms."""

import os

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from tests.support.equality import NETWORKS, Lit
from tests.support.fits import fit
from tests.support.processes import run as in_processes
from ts_lightning import ReferenceConfig, TargetSpaceConfig, TargetSpaceMonitor
from ts_lightning.callbacks.histograms import histograms

CASES = [(name, True) for name in NETWORKS] + [("MLP", False)]


def runs():
    """By network and whether the reference batch is shared: what was logged last, and the histograms."""
    torch.set_num_threads(1)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    strategy = {"strategy": "target_space_ddp", "devices": world} if world > 1 else {}
    found = {}
    for name, shard in CASES:
        torch.manual_seed(0)
        network = NETWORKS[name]().double()
        size = network.size
        config = TargetSpaceConfig(step_scale=5.0, reference=ReferenceConfig(size=size, shard=shard))
        model = Lit(network, config, "SGD")
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(32, *network.shape, generator=generator, dtype=torch.float64)
        y = torch.randint(3, (32,), generator=generator)
        model.reference_batch = lambda x=x, size=size: x[:size]
        mine = torch.arange(rank, len(x), world)  # so that batches are the same over all processes
        fit_ = fit(
            model.eval(),  # batch norm's statistics are another matter
            DataLoader(TensorDataset(x[mine], y[mine]), 8 // world),
            callbacks=[TargetSpaceMonitor(1)],
            max_epochs=1,
            log_every_n_steps=1,
            use_distributed_sampler=False,
            **strategy,
        )
        metrics = {k: float(v) for k, v in fit_.callback_metrics.items() if "/share/" not in k}
        found[name, shard] = metrics, histograms(model.target_space_engine)
    return found


@pytest.fixture(scope="module")
def results():
    return runs(), in_processes(runs, ranks=2)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_log_what_one_does(results, case):
    one, both = results[0][case], [rank[case] for rank in results[1]]
    assert len(one[0]) >= 8 * 2
    for metrics, panels in both:
        assert metrics == pytest.approx(one[0], rel=1e-8)
        assert panels.keys() == one[1].keys()
        for key, (counts, edges) in one[1].items():
            torch.testing.assert_close(panels[key][0], counts)
            torch.testing.assert_close(panels[key][1], edges)
