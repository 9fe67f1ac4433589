"""Worker processes of one thread each, so that equal computations give equal bits and workers share the cores; no
test's environment is another's; W&B offline. What needs torch is in ``support/between.py``."""

import gc
import os
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, and for the processes that tests start
os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"  # which Lightning's use causes once, and pytest shows

import pytest

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


def pytest_configure(config):
    """What needs torch, which the process that only hands tests to its workers does without."""
    if hasattr(config, "workerinput") or config.option.dist == "no":
        gc.disable()
        config.pluginmanager.import_plugin("tests.support.between")


def pytest_collection_finish():
    """What is imported by now stays to the end, and no garbage collection looks through it."""
    gc.freeze()
    gc.enable()


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
