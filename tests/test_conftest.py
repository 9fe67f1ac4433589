"""What a test leaves in its process does not reach the next one; the order of the two tests is that of the file."""

import os

import pytest
import torch.distributed as dist
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.demos.boring_classes import BoringModel

from tests.conftest import LIGHTNINGS


@pytest.fixture(scope="module")
def seeded():
    """Before any fixture of a single test."""
    seed_everything(0, verbose=False)


def test_a_fit_of_one_process_leaves_ranks_and_seeds(tmp_path, seeded):
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(strategy="ddp", accelerator="cpu", devices=1, fast_dev_run=1, default_root_dir=tmp_path, **quiet)
    trainer.fit(BoringModel())
    assert dist.is_initialized()
    assert {"LOCAL_RANK", "MASTER_PORT", "PL_GLOBAL_SEED"} <= os.environ.keys()


def test_the_next_test_finds_none_of_it():
    assert not dist.is_initialized()
    assert not [name for name in LIGHTNINGS if name in os.environ]
