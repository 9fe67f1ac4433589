"""Images classified by the paper's convolutional network: ``python -m ts_lightning.recipes.cnn_images``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ts_lightning.callbacks.pictures import ConfusionMatrix, SamplePredictions
from ts_lightning.cli import TargetSpaceCLI
from ts_lightning.errors import expect
from ts_lightning.recipes._classifier import Classifier
from ts_lightning.recipes._recipe import recipe
from ts_lightning.recipes.data import ImagesDataModule
from ts_lightning.recipes.data.arrays import MIN_SIDE

_SLOPE = 0.2


def convolutions(shape: tuple[int, int, int], classes: int, dropout: float = 0.0) -> nn.Sequential:
    """The network of Fairbank et al. (2022) for images: six convolutions, pooled after each pair, and two dense layers.

    Args:
        shape: channels, height and width of an image; height and width of at least 8.
        classes: the number of classes.
        dropout: share of activations dropped after each pooling.
    """
    channels, height, width = shape
    layers: list[nn.Module] = []
    for width_out in (32, 64, 128):
        for _ in range(2):
            layers += [nn.Conv2d(channels, width_out, 3, padding="same"), nn.LeakyReLU(_SLOPE)]
            channels = width_out
        layers.append(nn.MaxPool2d(2))
        if dropout > 0:
            layers.append(nn.Dropout(dropout))
    flat = channels * (height // 8) * (width // 8)
    layers += [nn.Flatten(), nn.Linear(flat, 128), nn.LeakyReLU(_SLOPE), nn.Linear(128, classes)]
    for layer in layers:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, a=_SLOPE)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


class ImageClassifier(Classifier):
    """A classifier of images by the paper's convolutional network.

    Args:
        shape: channels, height and width of an image; default those of the data.
        classes: the number of classes; default that of the data.
        dropout: share of activations dropped after each pooling, 0 to below 1; the paper uses 0.2.
        lr: Adam's learning rate; default 0.002 in target space, 0.003 in weight space.
    """

    #: measured in docs/defaults.md and on digits
    lr_target, lr_weight = 0.002, 0.003

    def __init__(
        self,
        shape: tuple[int, int, int] | None = None,
        classes: int | None = None,
        dropout: float = 0.0,
        lr: float | None = None,
    ) -> None:
        super().__init__(lr)
        self.save_hyperparameters(logger=False)
        expect("dropout", dropout, 0, below=1)
        if shape is not None:
            expect("shape, channels", shape[0], 1)
            expect("shape, height and width", min(shape[1:]), MIN_SIDE)
        if classes is not None:
            expect("classes", classes, 2)
        if shape is not None and classes is not None:
            self.build(convolutions(shape, classes, dropout), classes)

    def check_data(self, data: Any) -> None:
        """Refuse images of another shape, and more classes."""
        if isinstance(data, ImagesDataModule):
            shape, classes, images = self.given.shape, self.given.classes, data.images
            self.expect_of_data("shape", shape is not None and tuple(shape) == images.shape, images.shape)
            self.expect_of_data("classes", classes is not None and classes >= images.classes, images.classes)

    def build_for_data(self) -> None:
        """Build the network for the shape and the number of classes of the data's images."""
        images = self.described(ImagesDataModule).images
        self.given.update(shape=images.shape, classes=images.classes)
        self.build(convolutions(images.shape, images.classes, self.given.dropout), images.classes)


class ImagesCLI(TargetSpaceCLI):
    """The recipe's command line."""

    def title(self) -> str:
        """Data and space."""
        data = self.datamodule
        name = data.source if data.file is None else data.file.name
        return f"{name}, convolutional network, {self.spaces}"


DEFAULTS = {"trainer.max_epochs": 15, "trainer.log_every_n_steps": 1}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the recipe with these command-line arguments."""
    recipe(
        "cnn_images",
        ImagesCLI,
        ImageClassifier,
        ImagesDataModule,
        DEFAULTS,
        [SamplePredictions(), ConfusionMatrix()],
        argv,
    )


if __name__ == "__main__":
    main()
