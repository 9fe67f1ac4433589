"""What a run was made on: the data, the hardware, and what of the model was solved, each in a line."""

from __future__ import annotations

import platform
import re
from collections.abc import Sized
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from ts_lightning.amount import amount

_CPUS = Path("/proc/cpuinfo")


class Facts(Callback):
    """Keeps the lines at the end of training, before a test takes the Trainer's data away.

    What is solved is read off at the first batch, too: at the end, target space may have ended (``until``).

    Attributes:
        found: the lines, by their labels.
    """

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self._solved = ""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Read off what is solved, once."""
        self._solved = self._solved or _solved(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read them off."""
        hardware = _hardware(trainer.strategy.root_device, trainer.world_size)
        solved = _solved(pl_module) or self._solved
        found = {"data": _data(trainer), "hardware": hardware, "target space": solved}
        self.found = {name: text for name, text in found.items() if text}


def _solved(module: LightningModule) -> str:
    """The line that a fit in target space begins with."""
    engine = getattr(module, "target_space_engine", None)
    return "" if engine is None else engine.describe().removeprefix("Target space: ")


def _data(trainer: Trainer) -> str:
    """The data module, the training samples where they can be counted, and the batches of an epoch."""
    data = getattr(trainer, "datamodule", None)
    loader = trainer.train_dataloader
    samples = getattr(loader, "dataset", None)
    told = [] if data is None else [type(data).__name__]
    if isinstance(samples, Sized):
        words = ("training batch", "training batches") if _of_batches(loader) else ("training sample",)
        told.append(amount(len(samples), *words))
    if isinstance(size := getattr(loader, "batch_size", None), int):
        told.append(f"batches of {size:,}")
    return ", ".join(told)


def _of_batches(loader: Any) -> bool:
    """Whether the loader takes the items of its data set, one by one, for batches."""
    sampler = getattr(loader, "sampler", None)
    indexed = getattr(sampler, "data_source", getattr(sampler, "dataset", None))
    return isinstance(loader, DataLoader) and loader.batch_sampler is None and indexed is loader.dataset


def _hardware(device: torch.device, processes: int) -> str:
    count = f"{processes} processes, each on " if processes > 1 else ""
    if device.type == "cuda":
        return f"{count}{torch.cuda.get_device_name(device)}"
    threads = torch.get_num_threads()
    return f"{count}{_cpu()}, {amount(threads, 'thread')}"


def _cpu() -> str:
    """The processor's name, as far as the system tells."""
    names = re.findall(r"^model name\s*:\s*(.+)$", _CPUS.read_text(), re.MULTILINE) if _CPUS.is_file() else []
    return names[0] if names else platform.processor() or platform.machine()
