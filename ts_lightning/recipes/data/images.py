"""Images as a LightningDataModule: held in memory, scaled batch by batch, in an order that the seed alone decides."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from ts_lightning.errors import expect
from ts_lightning.recipes.data.arrays import ImageSet
from ts_lightning.recipes.data.order import ordering
from ts_lightning.recipes.data.sources import ROOT, load

Source = Literal["digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "npz"]
_TEST_BATCH = 500


class ImagesDataModule(LightningDataModule):
    """Images and their classes.

    Args:
        source: ``digits`` (bundled with scikit-learn, 8 x 8), a data set that torchvision reads, or ``npz``.
        root: the folder of torchvision's data sets.
        file: the archive for ``npz``; :func:`ts_lightning.recipes.data.arrays.image_set` says what it holds.
        download: fetch torchvision's data set if it is not under ``root``.
        batch_size: samples in a training batch.
        seed: for the order of the training data; default the run's (seed_everything).

    Raises:
        SettingError: a batch size below 1.
        DataError: from :meth:`setup`, the data is missing or unusable.
    """

    def __init__(
        self,
        source: Source = "digits",
        root: Path | str = ROOT,
        file: Path | str | None = None,
        download: bool = False,
        batch_size: int = 100,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        expect("batch_size", batch_size, 1)
        self.source = source
        self.root = Path(root)
        self.file = None if file is None else Path(file)
        self.download = download
        self.batch_size = batch_size
        self.seed = seed
        self._images: ImageSet | None = None

    @property
    def images(self) -> ImageSet:
        """All images and labels; read on first use."""
        if self._images is None:
            self._images = load(self.source, self.root, self.file, self.download)
        return self._images

    @property
    def labels(self) -> list[str]:
        """The name of each class, if they have names; else empty."""
        return self.images.labels

    def setup(self, stage: str | None = None) -> None:
        """Read and check the data, once."""
        assert self.images is not None

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Shuffled batches: x (batch, C, H, W) float32, y (batch,) int64."""
        data = TensorDataset(self.images.x_train, self.images.y_train)
        return DataLoader(data, self.batch_size, shuffle=True, generator=ordering(self.seed), collate_fn=_scaled)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """The test split, in order."""
        data = TensorDataset(self.images.x_test, self.images.y_test)
        return DataLoader(data, batch_size=_TEST_BATCH, collate_fn=_scaled)

    def predict_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """The test split, in order."""
        return self.val_dataloader()

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """The test split, in order."""
        return self.val_dataloader()


def _scaled(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Collate samples, bytes brought to 0 ... 1; floats stay as they are."""
    images, labels = zip(*samples, strict=True)
    x = torch.stack(images)
    return x.float().div_(255) if x.dtype == torch.uint8 else x, torch.stack(labels)
