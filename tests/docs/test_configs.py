"""Every file in configs/ trains: two steps of it, with a few made-up samples where data would have to be fetched."""

import math
import re
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Callback

from tests.support.processes import run
from tests.support.runs import unarranged
from ts_lightning.cli.main import main

CONFIGS = Path(__file__).parents[2] / "configs"
NAMES = [path.relative_to(CONFIGS).as_posix() for path in sorted(CONFIGS.rglob("*.yaml"))]
LIMITS = [
    "--trainer.limit_train_batches=2",
    "--trainer.max_epochs=1",
    "--trainer.log_every_n_steps=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.callbacks+=tests.docs.test_configs.Losses",
]
#: height or width, channels and classes of the images that torchvision would fetch
IMAGES = {"mnist": (28, 1, 10), "fashion_mnist": (28, 1, 10), "cifar10": (32, 3, 10), "cifar100": (32, 3, 100)}


class Losses(Callback):
    """Keeps the loss of every step."""

    found: ClassVar[list[float]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.found.append(float(outputs["loss"]))


def losses(options):
    """The losses of a run with these options."""
    Losses.found.clear()
    main(["fit", *options])
    return list(Losses.found)


def settings(name):
    return yaml.safe_load((CONFIGS / name).read_text())


def source(name):
    return settings(name)["data"].get("init_args", {}).get("source")


@pytest.fixture
def data(request, tmp_path, monkeypatch):
    """Options that put a few samples in the place of data that is not on every machine."""
    where = source(request.getfixturevalue("name"))
    if where in IMAGES:
        side, channels, classes = IMAGES[where]
        x = np.random.default_rng(0).integers(0, 256, (120, side, side, channels), dtype=np.uint8)
        y = np.arange(120) % classes
        np.savez(tmp_path / "images.npz", x_train=x[:100], y_train=y[:100], x_test=x[100:], y_test=y[100:])
        few = ["--data.batch_size=50", "--target_space.reference.size=10"]
        return ["--data.source=npz", f"--data.file={tmp_path / 'images.npz'}", *few]
    if where == "imdb":
        datasets = pytest.importorskip("datasets")
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        texts = [f"a film that is {'good' if i % 2 else 'bad'} in {i % 7} ways" for i in range(80)]
        for split in ("train", "test"):
            columns = {"text": texts, "label": [i % 2 for i in range(80)]}
            datasets.Dataset.from_dict(columns).to_parquet(tmp_path / "imdb" / f"{split}.parquet")
        return [f"--data.root={tmp_path / 'imdb'}"]
    return []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_it_trains_and_leaves_a_report(name, data, request, tmp_path, monkeypatch):
    unarranged(monkeypatch)
    elsewhere = tmp_path / "run"
    options = [f"--config={CONFIGS / name}", *LIMITS, *data, f"--out={elsewhere}"]
    if settings(name)["trainer"].get("logger") is not None:
        # W&B's own process may have begun in another folder than this one
        options.append(f"--trainer.logger.save_dir={request.getfixturevalue('offline')}")
    ranks = settings(name)["trainer"].get("devices", 1)
    if ranks == 1:
        monkeypatch.chdir(tmp_path)
        found = [losses(options)]
    else:
        found = run(losses, options, ranks=ranks)
    for each in found:
        assert len(each) == 2
        assert all(map(math.isfinite, each))
    assert {"report.html", "figure.png", "metrics.csv", "config.yaml"} <= {path.name for path in elsewhere.iterdir()}
    checkpoint = torch.load(elsewhere / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2
    assert "target_space" in checkpoint
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())


def test_each_is_in_the_table_and_says_its_command():
    linked = re.findall(r"\]\(([^)]+\.yaml)\)", (CONFIGS / "README.md").read_text())
    assert sorted(linked) == NAMES
    for name in NAMES:
        head = (CONFIGS / name).read_text().split("\nmodel:")[0]
        assert all(line.startswith("#") for line in head.splitlines())
        assert f"\n#     ts-lightning fit --config configs/{name}\n" in head


def leaves(tree, path=()):
    """Every value of nested dictionaries under its path."""
    if not isinstance(tree, dict) or not tree:
        return {path: tree}
    return {place: leaf for key, value in tree.items() for place, leaf in leaves(value, (*path, key)).items()}


def test_what_is_the_default_is_left_out(tmp_path, capsys):
    defaults = {}
    for name in NAMES:
        found = settings(name)
        classes = {part: {"class_path": found[part]["class_path"]} for part in ("model", "data")}
        key = yaml.safe_dump(classes)
        if key not in defaults:
            (tmp_path / "classes.yaml").write_text(key)
            with pytest.raises(SystemExit):
                main(["fit", f"--config={tmp_path / 'classes.yaml'}", "--print_config"])
            defaults[key] = leaves(yaml.safe_load(capsys.readouterr().out))
        for path, value in leaves(found).items():
            assert path[-1] == "class_path" or value != defaults[key].get(path, ...), f"{name}: {'.'.join(path)}"
