"""What every process of tests begins with (one thread, Lightning's banners off), and what no test leaves to the next:
process groups, wrapped loaders."""

import functools
import gc
import logging

import pytest
import torch
import torch.distributed as dist
from lightning.fabric.utilities import registry as lightnings_registry
from lightning_utilities.core.inheritance import get_all_subclasses
from torch.utils.data import BatchSampler, DataLoader

torch.set_num_threads(1)
# every Trainer reads the metadata of all installed packages, for callbacks that these bring along
lightnings_registry.entry_points = functools.cache(lightnings_registry.entry_points)
# every step of an optimizer asks, and where there is none looks for a driver's library anew
torch.cuda.device_count = functools.cache(torch.cuda.device_count)
for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
    logging.getLogger(name).setLevel(logging.ERROR)


@pytest.fixture(scope="module", autouse=True)
def _garbage_is_looked_for_in_what_a_file_has_made():
    """What is left by then stays to the end, as libraries that were imported; a collection takes a second by it."""
    yield
    gc.collect()
    gc.freeze()


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
