"""Where images come from: scikit-learn's digits, torchvision's data sets, or a file of one's own."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from ts_lightning.errors import DataError, first_line
from ts_lightning.optional import imported
from ts_lightning.recipes.data.arrays import ImageSet, image_set

#: the folder of torchvision's data sets where none is named
ROOT = "data"
_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
#: name in the options -> class in torchvision.datasets, and the folder that it reads under the root
_TORCHVISION = {
    "mnist": ("MNIST", "MNIST/raw"),
    "fashion_mnist": ("FashionMNIST", "FashionMNIST/raw"),
    "cifar10": ("CIFAR10", "cifar-10-batches-py"),
    "cifar100": ("CIFAR100", "cifar-100-python"),
}
#: of the 1,797 digits; the split is stratified by class and the same on every machine
DIGITS_TEST, DIGITS_SPLIT_SEED = 360, 0


def digits() -> ImageSet:
    """scikit-learn's bundled handwritten digits: 1,437 training and 360 test images of 8 x 8, 16 grey levels.

    Returns:
        Images as float32 from 0 to 1, split by ``train_test_split(test_size=360, stratify=y, random_state=0)``.

    Raises:
        DataError: scikit-learn is not installed.
    """
    datasets = imported("sklearn.datasets", "scikit-learn")
    selection = imported("sklearn.model_selection", "scikit-learn")
    bunch = datasets.load_digits()
    images = (bunch.images / 16).astype(np.float32)
    x_train, x_test, y_train, y_test = selection.train_test_split(
        images, bunch.target, test_size=DIGITS_TEST, stratify=bunch.target, random_state=DIGITS_SPLIT_SEED
    )
    return image_set(x_train, y_train, x_test, y_test, "digits")


def torchvision_images(name: str, root: Path, download: bool = False) -> ImageSet:
    """A data set that torchvision reads, in its official split.

    Args:
        name: ``mnist``, ``fashion_mnist``, ``cifar10`` or ``cifar100``.
        root: the folder that holds torchvision's data sets.
        download: fetch what is missing there.

    Raises:
        DataError: torchvision is not installed, or the data is not there, damaged or cannot be fetched.
    """
    datasets = imported("torchvision.datasets", "torchvision")
    kind, folder = _TORCHVISION[name]
    try:
        train, test = (getattr(datasets, kind)(root, train=split, download=download) for split in (True, False))
    except Exception as error:  # whatever torchvision, a socket or a file system raises: the cause is in the text
        reason = first_line(error)
        if download:
            raise DataError(
                f"{name}: could not be fetched to '{root}' ({reason}). Check the network and the folder."
            ) from error
        found = "found its folder, but not readable" if (root / folder).is_dir() else "found nothing"
        raise DataError(
            f"{name}: expected its files in '{root / folder}', {found} ({reason}). Add --data.download true to fetch "
            f"them, or say where they are with --data.root."
        ) from error
    images = image_set(train.data, np.asarray(train.targets), test.data, np.asarray(test.targets), name)
    return images if name == "mnist" else replace(images, labels=list(train.classes))  # MNIST's are "0 - zero", ...


def npz_images(file: Path) -> ImageSet:
    """A NumPy archive with the arrays ``x_train``, ``y_train``, ``x_test`` and ``y_test``; see :func:`image_set`.

    Raises:
        DataError: no such file, no such archive, or an array that is missing or unusable.
    """
    if not file.is_file():
        found = "a folder" if file.is_dir() else "nothing"
        raise DataError(f"'{file}': found {found}; expected a .npz file with {', '.join(_ARRAYS)} (numpy.savez).")
    try:
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DataError(f"'{file}': found a single array; expected an archive of {', '.join(_ARRAYS)}.")
        with archive:
            missing = [name for name in _ARRAYS if name not in archive.files]
            if missing:
                raise DataError(
                    f"'{file}': no array {', '.join(missing)}; found {', '.join(archive.files) or 'none'}, expected "
                    f"{', '.join(_ARRAYS)}."
                )
            arrays = [archive[name] for name in _ARRAYS]
    except DataError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"'{file}': not a readable .npz file ({error}); expected one made by numpy.savez.") from error
    x_train, y_train, x_test, y_test = arrays
    return image_set(x_train, y_train, x_test, y_test, f"'{file}'")


def load(source: str, root: Path, file: Path | None, download: bool) -> ImageSet:
    """The images of a source by its name, as :class:`ts_lightning.data.ImagesDataModule` takes it."""
    if source in ("digits", "npz"):
        for option, value, usual in (("root", root, Path(ROOT)), ("download", download, False)):
            if value != usual:
                raise DataError(
                    f"--data.{option} {value} goes with a data set of torchvision; found --data.source {source}."
                )
    if source == "npz":
        if file is None:
            raise DataError("npz: found no file; expected --data.file PATH, the .npz file with the images.")
        return npz_images(file)
    if file is not None:
        raise DataError(f"--data.file '{file}' goes with --data.source npz; found --data.source {source}.")
    return digits() if source == "digits" else torchvision_images(source, root, download)
