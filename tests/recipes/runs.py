"""What a recipe's run leaves behind."""

import csv

FILES = {"figure.png", "figure.svg", "last.ckpt", "metrics.csv", "settings.yaml"}


def files(folder):
    # older Lightnings write an empty hparams.yaml as well
    return {path.name for path in folder.iterdir()} - {"hparams.yaml"}


def metrics(folder, name):
    with (folder / "metrics.csv").open() as lines:
        return [float(row[name]) for row in csv.DictReader(lines) if row.get(name)]
