"""How much memory training takes, above what the process holds before it: libraries, data and the module itself."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class TrainingMemory(Callback):
    """Measures the peak of a fit: on a GPU what its tensors hold, else how far the process grows.

    On the CPU this is Linux's alone, whose peak can be set back to the present size: elsewhere it would be that of the
    imports.

    Attributes:
        measured: the peak in bytes, where another process has measured it.
    """

    def __init__(self) -> None:
        self.measured: int | None = None
        self._before: int | None = None
        self._cuda: torch.device | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin to measure, before targets, optimizers and activations are made."""
        if stage != "fit":
            return
        root = trainer.strategy.root_device
        self._cuda = root if root.type == "cuda" else None
        if self._cuda is not None:
            torch.cuda.reset_peak_memory_stats(self._cuda)
        else:
            self._before = reset_peak()

    @property
    def peak(self) -> int | None:
        """Bytes, so far; ``None`` where the system does not say."""
        if self.measured is not None:
            return self.measured
        if self._cuda is not None:
            return torch.cuda.max_memory_allocated(self._cuda)
        return None if self._before is None else max(process_peak() - self._before, 0)


def reset_peak() -> int | None:
    """Take the present size of this process as its peak, and give it in bytes; ``None`` where that cannot be done."""
    try:
        _RESET.write_text("5")
        return _status("VmRSS")
    except OSError:
        return None


def process_peak() -> int:
    """Bytes of this process's peak since it was set back. Not getrusage's, which counts the process that started it."""
    return _status("VmHWM")


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", _STATUS.read_text())
    assert found is not None
    return int(found[1]) * 1024
