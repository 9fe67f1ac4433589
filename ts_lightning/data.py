"""The recipes' data under their public name; see :mod:`ts_lightning.recipes.data`."""

from ts_lightning.recipes.data import (
    BitsDataModule,
    DataError,
    ImagesDataModule,
    SpiralsDataModule,
    TextDataModule,
)

__all__ = ["BitsDataModule", "DataError", "ImagesDataModule", "SpiralsDataModule", "TextDataModule"]
