"""Images classified by the paper's convolutional network: ``python -m ts_lightning.recipes.cnn_images``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from lightning.pytorch import seed_everything
from torch import nn

from ts_lightning import TargetSpaceConfig
from ts_lightning.data import ImagesDataModule
from ts_lightning.data.images import Source
from ts_lightning.recipes._classifier import Classifier
from ts_lightning.recipes._figures import curves, figure
from ts_lightning.recipes._program import Run, expect, program
from ts_lightning.recipes._report import table
from ts_lightning.recipes._training import Outcome, fit

TARGET_SPACE = TargetSpaceConfig()
#: Adam's learning rate in each space, measured in docs/defaults.md and on digits
LEARNING_RATES = {"target": 0.002, "weight": 0.003}
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
    """A classifier of images.

    Args:
        shape: channels, height and width of an image.
        classes: the number of classes.
        dropout: share of activations dropped after each pooling.
        lr: Adam's learning rate.
        target_space: settings of target space; ``None`` trains in weight space.
    """

    def __init__(
        self,
        shape: tuple[int, int, int] = (1, 8, 8),
        classes: int = 10,
        dropout: float = 0.0,
        lr: float = LEARNING_RATES["target"],
        target_space: TargetSpaceConfig | None = TARGET_SPACE,
    ) -> None:
        super().__init__(convolutions(shape, classes, dropout), classes, lr, target_space)
        self.save_hyperparameters(ignore=["target_space"], logger=False)


def train(
    run: Run,
    space: Literal["target", "weight"] = "target",
    data: Source = "digits",
    root: Path = Path("data"),
    file: Path | None = None,
    download: bool = False,
    epochs: int = 15,
    steps: int | None = None,
    batch_size: int = 100,
    dropout: float = 0.0,
    lr: float | None = None,
    seed: int = 0,
    accelerator: Literal["auto", "cpu", "cuda"] = "auto",
    target_space: TargetSpaceConfig = TARGET_SPACE,
) -> Outcome:
    """Classify images with the paper's convolutional network, Adam.

    Args:
        run: where the files go.
        space: train targets, or weights (with the same data, network, order of data and optimizer).
        data: digits comes with scikit-learn; npz is a file of your own; the others are read by torchvision.
        root: the folder of torchvision's data sets.
        file: for npz: an archive with x_train, y_train, x_test, y_test (numpy.savez); images (N, H, W), (N, H, W, C)
            or (N, C, H, W), uint8 or float of about 0 to 1, H and W at least 8, C 1 or 3; labels from 0 on.
        download: fetch torchvision's data set if it is not under root.
        epochs: passes over the training data; the test split is measured after each.
        steps: end after this many optimizer steps, if epochs do not end before.
        batch_size: images in a training batch.
        dropout: share of activations dropped after each pooling, 0 to 1; the paper uses 0.2.
        lr: Adam's learning rate; default 0.002 in target space, 0.003 in weight space.
        seed: of the order of the data, and of initial targets and weights.
        accelerator: device; auto takes a GPU (CUDA) where there is one.
        target_space: settings of target space; unused in weight space.

    Returns:
        What the run reached.
    """
    expect("--epochs", epochs, 1)
    expect("--steps", 1 if steps is None else steps, 1)
    expect("--batch_size", batch_size, 1)
    expect("--dropout", dropout, 0, below=1)
    lr = LEARNING_RATES[space] if lr is None else lr
    expect("--lr", lr, 0, strict=True)
    images = ImagesDataModule(data, root, file, download, batch_size, seed)
    images.setup()
    seed_everything(seed, verbose=False)
    shape, classes = images.images.shape, images.images.classes
    model = ImageClassifier(shape, classes, dropout, lr, target_space if space == "target" else None)
    folder = run.create(lr=lr)
    outcome = fit(
        model,
        images,
        folder,
        accelerator=accelerator,
        max_epochs=epochs,
        max_steps=-1 if steps is None else steps,
        log_every_n_steps=1,
    )
    name = data if file is None else file.name
    title = f"{name}, convolutional network, {space} space"
    with figure(folder, title, [4.6, 4.6], 3.8) as (left, right):
        curves(left, outcome.history, "accuracy", "accuracy", batches=10)
        curves(right, outcome.history, "loss", "cross-entropy", batches=10)
        right.set_yscale("log")
    print(table(title, outcome, ["test/accuracy", "test/loss"], {}, folder))
    return outcome


def main(argv: Sequence[str] | None = None) -> None:
    """Run the recipe with these command-line arguments."""
    program("cnn_images", train, argv)


if __name__ == "__main__":
    main()
