"""Image data: sources, splits, order, and one clear line for what cannot be used."""

import re
import sys

import numpy as np
import pytest
import torch

from ts_lightning.data import DataError, ImagesDataModule
from ts_lightning.recipes.data.arrays import image_set

GENERATOR = np.random.default_rng(0)


def archive(path, **changes):
    """A small archive of 8 x 9 colour images in 3 classes, with changes; an array of None is left out."""
    arrays = {
        "x_train": GENERATOR.integers(0, 256, (12, 8, 9, 3), dtype=np.uint8),
        "y_train": np.arange(12) % 3,
        "x_test": GENERATOR.integers(0, 256, (6, 8, 9, 3), dtype=np.uint8),
        "y_test": np.arange(6) % 3,
    }
    arrays.update(changes)
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def module(path, **options):
    return ImagesDataModule("npz", file=path, **options)


def batches(data):
    data.setup()
    return list(data.train_dataloader())


def test_digits_are_split_by_class_and_scaled():
    data = ImagesDataModule()
    data.setup()
    images = data.images
    assert images.shape == (1, 8, 8)
    assert images.classes == 10
    assert (len(images.x_train), len(images.x_test)) == (1437, 360)
    assert (images.x_train.min(), images.x_train.max()) == (0, 1)
    shares = torch.stack([y.bincount() / len(y) for y in (images.y_train, images.y_test)])
    torch.testing.assert_close(shares[0], shares[1], atol=0.004, rtol=0)
    assert not {bytes(x.numpy()) for x in images.x_train} & {bytes(x.numpy()) for x in images.x_test}


def test_order_of_training_data_follows_the_seed_alone():
    first, second, other = (ImagesDataModule(seed=seed) for seed in (3, 3, 4))
    torch.manual_seed(1)
    a = torch.cat([y for _, y in batches(first)])
    torch.manual_seed(2)
    before = torch.get_rng_state()
    b = torch.cat([y for _, y in batches(second)])
    assert torch.equal(a, b)
    assert not torch.equal(a, torch.cat([y for _, y in batches(other)]))
    assert sorted(a.tolist()) == sorted(first.images.y_train.tolist())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((4, 8, 9), (1, 8, 9)),
        ((4, 8, 9, 1), (1, 8, 9)),
        ((4, 8, 9, 3), (3, 8, 9)),
        ((4, 1, 8, 9), (1, 8, 9)),
        ((4, 3, 8, 9), (3, 8, 9)),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_layouts_come_out_channels_first(shape, expected, dtype, tmp_path):
    values = (GENERATOR.random(shape) * (255 if dtype == np.uint8 else 1)).astype(dtype)
    labels = np.array([0, 1, 0, 1])
    path = archive(tmp_path / "a.npz", x_train=values, y_train=labels, x_test=values, y_test=labels)
    data = module(path)
    data.setup()
    ((x, y),) = data.val_dataloader()
    assert x.shape == (4, *expected)
    assert x.dtype == torch.float32
    assert y.tolist() == labels.tolist()
    channel = values.reshape(4, 8, 9) if expected[0] == 1 else np.take(values, 1, axis=shape.index(3))
    scale = 255 if dtype == np.uint8 else 1
    np.testing.assert_allclose(x[:, expected[0] // 2].numpy(), channel / scale, rtol=1e-6)


BAD = [
    ({"x_test": None, "y_test": None}, "no array x_test, y_test; found x_train, y_train"),
    ({"x_train": np.zeros((12, 8, 9, 3), np.int64)}, "x_train of type int64; expected uint8"),
    ({"x_train": np.zeros((12, 8, 9, 2), np.uint8)}, "x_train of shape (12, 8, 9, 2); expected (N, H, W)"),
    ({"x_train": np.zeros((12, 7, 9), np.uint8)}, "at least 8"),
    ({"x_train": np.zeros((12, 3, 8, 3), np.uint8)}, "x_train of shape (12, 3, 8, 3)"),
    ({"x_train": np.zeros((0, 8, 9, 3), np.uint8)}, "x_train is empty"),
    ({"x_train": np.full((12, 8, 9, 3), np.nan)}, "a NaN or an infinity in x_train"),
    ({"x_train": np.full((12, 8, 9, 3), 255.0)}, "floats up to 255 in x_train"),
    ({"x_test": np.zeros((6, 9, 9, 3), np.uint8)}, "expected images of one size and type"),
    ({"x_test": np.zeros((6, 8, 9, 3), np.float32)}, "expected images of one size and type"),
    ({"y_train": np.arange(11) % 3}, "12 images in x_train and 11 labels in y_train"),
    ({"y_train": np.arange(12) % 3 / 2}, "y_train of type float64; expected whole numbers"),
    ({"y_train": np.eye(12, 3, dtype=int)}, "y_train of shape (12, 3); expected (N,)"),
    ({"y_train": np.arange(12) % 3 - 1}, "label -1 in y_train"),
    ({"y_train": np.arange(12) % 3 * 2}, "class 1, 3 does not occur"),
    ({"y_train": np.arange(12) % 3 * 10**13}, "class 1, 2, 3, 4, 5 and 19999999999993 more does not occur"),
    ({"y_train": np.zeros(12, int)}, "found only class 0 in y_train; expected at least two classes"),
    ({"y_test": np.arange(6)}, "label 5 in y_test; expected 0 to 2"),
    ({"x_train": np.array([{"an": "object"}] * 12)}, "not a readable .npz file"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[message for _, message in BAD])
def test_unusable_arrays_are_told_in_one_line(changes, message, tmp_path):
    path = archive(tmp_path / "own.npz", **changes)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        module(path).setup()
    assert "own.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unusable_files_are_told_in_one_line(tmp_path):
    (tmp_path / "text.npz").write_text("not an archive")
    np.save(tmp_path / "one.npy", np.zeros(3))
    cases = {
        "missing.npz": "found nothing; expected a .npz file",
        ".": "found a folder",
        "text.npz": "not a readable .npz file",
        "one.npy": "found a single array",
    }
    for name, message in cases.items():
        with pytest.raises(DataError, match=re.escape(message)):
            module(tmp_path / name).setup()
    with pytest.raises(DataError, match=r"expected --data\.file PATH"):
        ImagesDataModule("npz").setup()
    with pytest.raises(DataError, match=r"goes with --data\.source npz"):
        ImagesDataModule("digits", file=tmp_path / "one.npy").setup()
    for options in ({"root": tmp_path}, {"download": True}):
        with pytest.raises(DataError, match=r"goes with a data set of torchvision; found --data\.source digits\."):
            ImagesDataModule("digits", **options).setup()


def test_class_gaps_are_counted_not_listed_without_end():
    labels = np.array([0, 60_000])
    images = np.zeros((2, 8, 8), np.uint8)
    with pytest.raises(DataError, match="class 1, 2, 3, 4, 5 and 59994 more does not occur"):
        image_set(images, labels, images, labels, "test")


@pytest.mark.parametrize("kind", ["<f8", ">f4", "f2", np.longdouble])
def test_floats_of_any_precision_and_byte_order_are_read(kind, tmp_path):
    x = {name: np.full((3, 8, 8), 0.5, dtype=kind) for name in ("x_train", "x_test")}
    labels = {"y_train": np.arange(3), "y_test": np.arange(3, dtype=">i2")}
    data = module(archive(tmp_path / "x.npz", **x, **labels))
    assert torch.equal(batches(data)[0][0], torch.full((3, 1, 8, 8), 0.5))


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_a_data_set_that_is_not_there(name, tmp_path):
    pytest.importorskip("torchvision")
    with pytest.raises(DataError, match="found nothing") as caught:
        ImagesDataModule(name, root=tmp_path).setup()
    assert "--data.download true" in str(caught.value)
    assert "--data.root" in str(caught.value)


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def test_torchvision_files_are_read_in_their_official_split(tmp_path):
    pytest.importorskip("torchvision")
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = GENERATOR.integers(0, 256, (20, 28, 28))
    for part, start, stop in (("train", 0, 15), ("t10k", 15, 20)):
        write_idx(raw / f"{part}-images-idx3-ubyte", images[start:stop])
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.arange(start, stop) % 10)
    data = ImagesDataModule("mnist", root=tmp_path, batch_size=20)
    data.setup()
    assert data.images.shape == (1, 28, 28)
    ((x, y),) = data.test_dataloader()
    np.testing.assert_allclose(x[:, 0].numpy(), images[15:] / 255, rtol=1e-6)
    assert y.tolist() == [5, 6, 7, 8, 9]
    (raw / "train-images-idx3-ubyte").write_bytes(b"damaged")
    with pytest.raises(DataError, match="found its folder, but not readable"):
        ImagesDataModule("mnist", root=tmp_path).setup()


def test_a_missing_package_says_what_to_install(monkeypatch):
    for source, package in (("digits", "scikit-learn"), ("mnist", "torchvision")):
        monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
        monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
        with pytest.raises(DataError, match=re.escape(f"{package} could not be imported")) as caught:
            ImagesDataModule(source).setup()
        assert "pip install 'ts-lightning[recipes]'" in str(caught.value)
