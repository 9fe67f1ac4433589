"""Worker processes of one thread each, so that equal computations give equal bits and workers share the cores;
Lightning's banners off; no test's environment is another's; W&B offline."""

import functools
import logging
import os
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, and for the processes that tests start
os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"  # which Lightning's use causes once, and pytest shows

import pytest
import torch
import torch.distributed as dist
from lightning.fabric.utilities import registry as lightnings_registry
from lightning_utilities.core.inheritance import get_all_subclasses
from torch.utils.data import BatchSampler, DataLoader

torch.set_num_threads(1)
# every Trainer reads the metadata of all installed packages, for callbacks that these bring along
lightnings_registry.entry_points = functools.cache(lightnings_registry.entry_points)
for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
    logging.getLogger(name).setLevel(logging.ERROR)

#: what Lightning leaves in the environment
LIGHTNINGS = (
    "LOCAL_RANK",
    "NODE_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "WORLD_SIZE",
    "PL_GLOBAL_SEED",
    "PL_SEED_WORKERS",
)
#: each has torch and Lightning in its memory
MOST_WORKERS = 8


def pytest_xdist_auto_num_workers(config):
    """One worker per core, and none for a single file, whose tests stay together (``--dist loadfile``)."""
    files = {name.split("::")[0] for name in getattr(config.option, "file_or_dir", [])}
    if len(files) == 1 and Path(*files).is_file():
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_WORKERS)


@pytest.fixture(autouse=True)
def _environment_ends_with_its_test():
    """Lightning leaves seeds and ranks in the environment, from which processes that start later would take them.

    With ``LOCAL_RANK`` of an earlier test a command line believes that its other processes were started for it, and
    waits for them. What fixtures of a file or of the session set stays, but for Lightning's own.
    """
    before = {name: value for name, value in os.environ.items() if name not in LIGHTNINGS}
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _process_groups_end_with_their_test():
    """A Trainer leaves its own behind."""
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.fixture(autouse=True)
def _loaders_are_unwrapped():
    """Lightning wraps the methods of loaders while these are made, and leaves it at that where one fails."""
    yield
    for base in (DataLoader, BatchSampler):
        for kind in get_all_subclasses(base) | {base} if "__old__init__" in vars(base) else ():
            for name in ("__init__", "__setattr__", "__delattr__"):
                if f"__old{name}" in vars(kind):
                    setattr(kind, name, vars(kind)[f"__old{name}"])
                    delattr(kind, f"__old{name}")


@pytest.fixture
def own_registries(monkeypatch):
    """Layer types and ridge scales that a test registers are forgotten when it ends."""
    from ts_lightning import config
    from ts_lightning.layers import registry
    from ts_lightning.ridge import scales

    monkeypatch.setattr(registry, "_FAMILIES", dict(registry._FAMILIES))
    monkeypatch.setattr(scales, "_SCALES", dict(scales._SCALES))
    monkeypatch.setattr(config, "ridge_scales", list(config.ridge_scales))


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """W&B without network, all of its files below the folder."""
    wandb = pytest.importorskip("wandb")
    for name, value in {"MODE": "offline", "SILENT": "true", "DIR": tmp_path}.items():
        monkeypatch.setenv(f"WANDB_{name}", str(value))
    for name in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name))
    yield tmp_path
    wandb.finish()
