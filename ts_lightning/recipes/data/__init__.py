"""The recipes' data, as LightningDataModules; each has a default that needs no network."""

from ts_lightning.errors import DataError
from ts_lightning.recipes.data.bits import BitsDataModule
from ts_lightning.recipes.data.images import ImagesDataModule
from ts_lightning.recipes.data.spirals import SpiralsDataModule
from ts_lightning.recipes.data.text import TextDataModule

__all__ = ["BitsDataModule", "DataError", "ImagesDataModule", "SpiralsDataModule", "TextDataModule"]
