"""Bit sequences with a long memory (Fairbank et al., 2022, section 4.2): generated, one stream of random bits.

A sequence has ``delay + 50`` steps of one random bit each. What is asked at step t >= delay, of the present bit a_t and
the bit b_t = a_(t - delay):

- ``recall``: b_t
- ``xor``: a_t xor b_t
- ``adder``: the sum of the streams a and b as binary numbers, lowest bit first; the carry is 0 at step ``delay``.

Before that step nothing is asked.
"""

from __future__ import annotations

from typing import Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from ts_lightning.errors import DataError, expect
from ts_lightning.recipes.data.order import ordering

Task = Literal["recall", "xor", "adder"]
#: steps at which something is asked
ASKED = 50
#: sequences in each split, and the seeds that they are drawn with, the same on every machine
TRAINING, TEST = 8000, 1000
_TRAINING_SEED, _TEST_SEED = 1, 2
_TEST_BATCH = 500


def bits(task: Task, delay: int, sequences: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random sequences and the answers to them.

    Args:
        task: what is asked.
        delay: how many steps back the bit to remember lies, at least 1.
        sequences: how many.
        seed: of the random bits.

    Returns:
        Sequences (N, delay + 50, 1) of 0 and 1 in float32, and answers (N, 50), 0 or 1, in int64: one for each step
        from ``delay`` on.

    Raises:
        DataError: a delay below 1, or no such task.
    """
    if delay < 1:
        raise DataError(f"delay: found {delay}; expected at least 1.")
    generator = torch.Generator().manual_seed(seed)
    stream = torch.randint(2, (sequences, delay + ASKED), generator=generator)
    present, past = stream[:, delay:], stream[:, :-delay]
    if task == "recall":
        answers = past.clone()
    elif task == "xor":
        answers = present ^ past
    elif task == "adder":
        answers = _sum(present, past)
    else:
        raise DataError(f"task: found {task!r}; expected 'recall', 'xor' or 'adder'.")
    return stream.unsqueeze(2).float(), answers


def _sum(a: Tensor, b: Tensor) -> Tensor:
    """The sum of binary numbers (N, digits), lowest digit first, without the last carry."""
    digits = []
    carry = torch.zeros_like(a[:, 0])
    for step in range(a.shape[1]):
        total = a[:, step] + b[:, step] + carry
        digits.append(total % 2)
        carry = total // 2
    return torch.stack(digits, dim=1)


class BitsDataModule(LightningDataModule):
    """Bit sequences of one task: 8,000 for training and 1,000 for testing, the same ones for every seed.

    Args:
        task: what is asked, see above.
        delay: how many steps back the bit to remember lies, at least 1.
        batch_size: sequences in a training batch.
        seed: for the order of the training data; default the run's (seed_everything).

    Raises:
        SettingError: a delay or a batch size out of range.
    """

    def __init__(self, task: Task = "recall", delay: int = 20, batch_size: int = 100, seed: int | None = None) -> None:
        super().__init__()
        expect("delay", delay, 1)
        expect("batch_size", batch_size, 1, below=TRAINING + 1)
        self.task = task
        self.delay = delay
        self.batch_size = batch_size
        self.seed = seed

    def setup(self, stage: str | None = None) -> None:
        """Generate the sequences."""
        self.train = TensorDataset(*bits(self.task, self.delay, TRAINING, _TRAINING_SEED))
        self.test = TensorDataset(*bits(self.task, self.delay, TEST, _TEST_SEED))

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Shuffled batches: x (batch, delay + 50, 1) float32, y (batch, 50) int64."""
        return DataLoader(self.train, self.batch_size, shuffle=True, generator=ordering(self.seed))

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """The test sequences, in order."""
        return DataLoader(self.test, batch_size=_TEST_BATCH)

    def predict_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """The test sequences, in order."""
        return self.val_dataloader()

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """The test sequences, in order."""
        return self.val_dataloader()
