"""A table of the test texts with the largest loss."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import BatchSampler, DistributedSampler, SequentialSampler

from ts_lightning.amount import amount
from ts_lightning.callbacks.pictures.predictions import PredictionCallback, class_names
from ts_lightning.callbacks.wandb import log_table
from ts_lightning.errors import TargetSpaceError

COLUMNS = ("text", "label", "predicted", "probability", "loss")
_LOSS, _INDEX, _LABEL, _PREDICTED, _PROBABILITY = range(5)


class WorstTexts(PredictionCallback):
    """Writes ``worst_texts.csv``: text, label, predicted label, its probability, and the cross-entropy of the label.

    The dataloader's data set says what its samples were before they were encoded: it has an attribute ``texts``, a
    sequence of strings, as that of :class:`ts_lightning.data.TextDataModule`. Texts of all processes are compared. See
    :class:`ts_lightning.callbacks.pictures.predictions.PredictionCallback`.

    Args:
        count: texts in the table.

    Raises:
        TargetSpaceError: the data set has no texts, or the dataloader changes their order.

    Examples:
        >>> import torch
        >>> from lightning.pytorch import LightningModule, Trainer
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> from ts_lightning.pictures import WorstTexts
        >>> class Length(LightningModule):
        ...     def forward(self, x):
        ...         return torch.cat([-x, x], dim=1)
        ...
        ...     def test_step(self, batch, batch_idx):
        ...         pass
        >>> data = TensorDataset(torch.tensor([[-1.0], [2.0], [1.0]]), torch.tensor([0, 0, 1]))
        >>> data.texts = ["short", "quite a long text", "a longer text"]
        >>> trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[WorstTexts(1)])
        >>> _ = trainer.test(Length(), DataLoader(data, batch_size=4), verbose=False)
        >>> print(open("worst_texts.csv").read().strip())
        text,label,predicted,probability,loss
        quite a long text,0,1,0.982,4.0181
    """

    name = "worst_texts"

    def __init__(self, count: int = 50) -> None:
        self.count = count

    def start(self, trainer: Trainer) -> None:
        """Look up the texts of the data set, and the order in which the dataloader gives its samples."""
        # which is there while the loop runs
        loader: Any = trainer._evaluation_loop._combined_loader.flattened[0]  # type: ignore[union-attr]
        texts = getattr(loader.dataset, "texts", None)
        if texts is None:
            raise TargetSpaceError(
                f"WorstTexts found a data set without texts, {type(loader.dataset).__name__}; expected an attribute "
                f"texts, the text of each sample. Give it one, or take the callback out."
            )
        sampler = loader.sampler
        in_order = isinstance(sampler, (SequentialSampler, DistributedSampler))
        if not in_order or type(loader.batch_sampler) is not BatchSampler:
            raise TargetSpaceError(
                f"WorstTexts found {type(sampler).__name__} in the {self.split} dataloader; expected samples in the "
                f"data set's order. Leave out shuffle=True and samplers there."
            )
        if len(texts) < len(loader.dataset):
            raise TargetSpaceError(
                f"WorstTexts found {amount(len(texts), 'text')} for {amount(len(loader.dataset), 'sample')} of the "
                f"{self.split} data; expected the text of each. Give the data set those of its own samples, or "
                f"take the callback out."
            )
        self._texts = texts
        self._order = torch.tensor(list(sampler))
        self._worst = torch.empty(0, 5, dtype=torch.float64)

    def add(self, x: Tensor, y: Tensor, logits: Tensor) -> None:
        """Keep the texts with the largest loss of this batch and those before."""
        loss = cross_entropy(logits, y, reduction="none")
        probability, predicted = logits.softmax(dim=1).max(dim=1)
        index = self._order[self.places]
        columns = [column.cpu().double() for column in (loss, index, y, predicted, probability)]
        self._worst = self._largest(torch.cat([self._worst, torch.stack(columns, dim=1)]))
        self._classes = logits.shape[1]

    def gather(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Combine the tables of all processes; a text that two processes were given counts once."""
        padding = torch.full((self.count - len(self._worst), 5), -1.0, dtype=torch.float64)
        own = torch.cat([self._worst, padding])
        if trainer.world_size > 1:
            # a tensor for a tensor
            own = pl_module.all_gather(own.to(pl_module.device)).cpu().reshape(-1, 5)  # type: ignore[union-attr]
        rows = {int(row[_INDEX]): row for row in own if row[_INDEX] >= 0}
        self._worst = self._largest(torch.stack(list(rows.values())))

    def write(self, trainer: Trainer, pl_module: LightningModule, file_stem: Path) -> None:
        """Write the table, largest loss first, and log it to W&B."""
        labels = class_names(trainer, pl_module, self._classes)
        rows = [
            (
                self._texts[int(row[_INDEX])],
                labels[int(row[_LABEL])],
                labels[int(row[_PREDICTED])],
                round(row[_PROBABILITY], 4),
                round(row[_LOSS], 4),
            )
            for row in self._worst.tolist()
        ]
        with file_stem.with_name(f"{file_stem.name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
        log_table(trainer, f"pictures/{self.name}", COLUMNS, rows)

    def _largest(self, rows: Tensor) -> Tensor:
        return rows[rows[:, _LOSS].argsort(descending=True, stable=True)[: self.count]]
