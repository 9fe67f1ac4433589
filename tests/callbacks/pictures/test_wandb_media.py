"""What goes to W&B: a run is written offline and read back; without W&B the files are the same."""

import json
import sys

from tests.support.classifiers import Classifier, loader, samples
from tests.support.fits import trainer
from tests.support.offline import artifacts, config, history, records
from ts_lightning.callbacks.wandb import log_artifact
from ts_lightning.pictures import ConfusionMatrix, DecisionRegions, SamplePredictions, WorstTexts


def test_pictures_table_matrix_config_and_checkpoint_are_in_an_offline_run(offline):
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    logger = WandbLogger(project="tests", save_dir=offline)
    logger.log_hyperparams({"space": "target", "lr": 0.5})
    images, points = samples(3, 5, 4, classes=3), samples(2, classes=3)
    of_images = [SamplePredictions(), ConfusionMatrix(), WorstTexts(5)]
    for data, callbacks in ((images, of_images), (points, [DecisionRegions()])):
        model = Classifier(data.tensors[0][0].numel(), 3)
        run = trainer(default_root_dir=offline, logger=logger, callbacks=callbacks, max_epochs=1)
        run.fit(model, loader(data))
        run.test(model, loader(data), verbose=False)
    run.save_checkpoint(offline / "last.ckpt")
    log_artifact(run, offline / "last.ckpt")
    media = offline / "wandb" / "latest-run" / "files"
    wandb.finish()

    found = records(offline)
    logged = history(found)
    for name in ("decision_regions", "sample_predictions", "confusion_matrix"):
        assert logged[f"pictures/{name}/_type"] == "images/separated"
        (file,) = logged[f"pictures/{name}/filenames"]
        assert (media / file).read_bytes() == (offline / f"{name}.png").read_bytes()
    assert logged["pictures/worst_texts/_type"] == "table-file"
    texts = json.loads((media / logged["pictures/worst_texts/path"]).read_text())
    assert texts["columns"] == ["text", "label", "predicted", "probability", "loss"]
    assert len(texts["data"]) == 5
    counts = json.loads((media / logged["pictures/confusion_matrix_chart_table/path"]).read_text())
    assert sum(count for _, _, count in counts["data"]) == 24
    assert "wandb/confusion_matrix/v1" in json.dumps(config(found))
    assert config(found)["space"] == "target"
    assert config(found)["lr"] == 0.5
    assert [(kind, files) for kind, _, files in artifacts(found) if kind == "model"] == [("model", ["model.ckpt"])]


def test_without_wandb_the_files_are_there_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    data = samples(3, 5, 4, classes=3)
    callbacks = [SamplePredictions(), ConfusionMatrix(), WorstTexts()]
    run = trainer(default_root_dir=tmp_path, callbacks=callbacks, max_epochs=1)
    model = Classifier(60, 3)
    run.fit(model, loader(data))
    run.test(model, loader(data), verbose=False)
    run.save_checkpoint(tmp_path / "last.ckpt")
    log_artifact(run, tmp_path / "last.ckpt")
    names = {"confusion_matrix.png", "sample_predictions.png", "worst_texts.csv"}
    assert names <= {path.name for path in tmp_path.iterdir()}
