"""Arrays of images and labels, checked and brought to one form: (samples, channels, height, width) and int64 labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ts_lightning.amount import amount
from ts_lightning.errors import DataError

#: the smallest height and width: three 2 x 2 poolings leave one pixel of it
MIN_SIDE = 8
_CHANNELS = (1, 3)
#: floats are used as they are; above this they are surely bytes that someone converted
_LARGEST_FLOAT = 50.0
_LAYOUTS = "(N, H, W), (N, H, W, C) or (N, C, H, W), with H and W of at least 8 and C of 1 or 3"


@dataclass(frozen=True)
class ImageSet:
    """Images and labels, split into training and test.

    Attributes:
        x_train: training images (N, C, H, W), uint8 (0 to 255) or float32.
        y_train: training labels (N,), int64, 0 to ``classes`` - 1.
        x_test: test images, as ``x_train``.
        y_test: test labels, as ``y_train``.
        classes: the number of classes.
        labels: the name of each class, if they have names; else empty.
    """

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: int
    labels: list[str] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.x_train.shape[1:]
        return channels, height, width


def image_set(x_train: Any, y_train: Any, x_test: Any, y_test: Any, source: str) -> ImageSet:
    """Check four arrays and bring them to one form.

    Args:
        x_train: images (N, H, W), (N, H, W, C) or (N, C, H, W): the axis of length 1 or 3 is the channel axis, and
            as H and W are at least 8, no array fits two of these. uint8, or floats, which are used as they are.
        y_train: whole numbers (N,), 0 to classes - 1; every class occurs, and there are at least two.
        x_test: as ``x_train``, in the same form.
        y_test: as ``y_train``; no class that training lacks.
        source: where the arrays come from, for the errors.

    Returns:
        The images as uint8 or float32.

    Raises:
        DataError: an array has another type, shape or range; says which, and what was found.
    """
    images = {"x_train": _images(x_train, source, "x_train"), "x_test": _images(x_test, source, "x_test")}
    labels = {"y_train": _labels(y_train, source, "y_train"), "y_test": _labels(y_test, source, "y_test")}
    for split in ("train", "test"):
        found, expected = len(labels[f"y_{split}"]), len(images[f"x_{split}"])
        if found != expected:
            raise DataError(
                f"{source}: found {amount(expected, 'image')} in x_{split} and {amount(found, 'label')} in "
                f"y_{split}; expected as many."
            )
    train, test = images["x_train"], images["x_test"]
    if train.shape[1:] != test.shape[1:] or train.dtype != test.dtype:
        raise DataError(
            f"{source}: found x_train {_form(train)} and x_test {_form(test)}; expected images of one size and type."
        )
    classes = int(labels["y_train"].max()) + 1
    present = set(labels["y_train"].tolist())
    if len(present) < classes:
        missing = list(islice((label for label in range(classes) if label not in present), 5))
        rest = classes - len(present) - len(missing)
        more = f" and {rest} more" if rest else ""
        raise DataError(
            f"{source}: y_train goes up to {classes - 1}, but class {', '.join(map(str, missing))}{more} does not "
            f"occur in it. Expected every class from 0 to the largest: renumber the labels."
        )
    if classes < 2:
        raise DataError(f"{source}: found only class 0 in y_train; expected at least two classes.")
    largest = int(labels["y_test"].max())
    if largest >= classes:
        raise DataError(
            f"{source}: found label {largest} in y_test; expected 0 to {classes - 1}, the classes in y_train."
        )
    return ImageSet(train, labels["y_train"], test, labels["y_test"], classes)


def _images(given: Any, source: str, name: str) -> Tensor:
    array = np.asarray(given)
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise DataError(f"{source}: found {name} of type {array.dtype}; expected uint8 (0 to 255) or float.")
    if array.shape[:1] == (0,):
        raise DataError(f"{source}: {name} is empty, {array.shape}; expected at least one image.")
    kind = np.uint8 if array.dtype == np.uint8 else np.float32  # from any precision and byte order
    images = torch.from_numpy(np.ascontiguousarray(_channels_first(array, source, name), dtype=kind))
    if images.dtype == torch.uint8:
        return images
    if not torch.isfinite(images).all():
        raise DataError(f"{source}: found a NaN or an infinity in {name}; expected finite numbers.")
    largest = float(images.abs().max())
    if largest > _LARGEST_FLOAT:
        raise DataError(
            f"{source}: found floats up to {largest:g} in {name}; floats are used as they are, and about 0 to 1 is "
            f"expected. Divide them by 255, or store uint8."
        )
    return images


def _channels_first(array: Any, source: str, name: str) -> Any:
    if array.ndim == 3 and min(array.shape[1:]) >= MIN_SIDE:
        return array[:, None]
    if array.ndim == 4:
        if array.shape[3] in _CHANNELS and min(array.shape[1:3]) >= MIN_SIDE:
            return array.transpose(0, 3, 1, 2)
        if array.shape[1] in _CHANNELS and min(array.shape[2:]) >= MIN_SIDE:
            return array
    raise DataError(f"{source}: found {name} of shape {array.shape}; expected {_LAYOUTS}.")


def _labels(given: Any, source: str, name: str) -> Tensor:
    array = np.asarray(given)
    if array.dtype.kind not in "iu":
        raise DataError(f"{source}: found {name} of type {array.dtype}; expected whole numbers (int64).")
    if array.ndim != 1 or len(array) == 0:
        raise DataError(f"{source}: found {name} of shape {array.shape}; expected (N,), one label for each image.")
    array = array.astype(np.int64)
    if array.min() < 0:
        raise DataError(f"{source}: found label {array.min()} in {name}; expected classes from 0 on.")
    return torch.from_numpy(array)


def _form(images: Tensor) -> str:
    return f"{tuple(images.shape[1:])} {str(images.dtype).removeprefix('torch.')}"
