"""What the names of metrics tell."""

import pytest

from ts_lightning.report.metric import Metric

NAMES = [
    ("test/accuracy", "accuracy", "test", ""),
    ("val_loss", "loss", "validation", ""),
    ("valLoss", "loss", "validation", ""),
    ("validation.top5_error", "top5 error", "validation", ""),
    ("train_loss_step", "loss", "training", "step"),
    ("train/loss_epoch", "loss", "training", "epoch"),
    ("loss/train", "loss", "training", ""),
    ("val_loss/dataloader_idx_1", "loss dataloader idx 1", "validation", ""),
    ("test", "test", "test", ""),
    ("step", "step", "training", ""),
    ("contest_score", "contest score", "training", ""),
    ("train/test_like_loss", "test like loss", "training", ""),
]


@pytest.mark.parametrize(("name", "quantity", "split", "per"), NAMES)
def test_words_tell_quantity_and_split(name, quantity, split, per):
    assert Metric.of(name) == Metric(name, quantity, split, per)


def test_a_name_without_a_split_takes_the_default():
    assert Metric.of("f1", "validation").split == "validation"
    assert Metric.of("train_f1", "validation").split == "training"


@pytest.mark.parametrize("name", ["loss", "val_bce_loss", "BCELoss", "test/error", "mse", "cross_entropy", "val_ppl"])
def test_losses_and_errors_are_best_when_smallest(name):
    metric = Metric.of(name)
    assert metric.smaller_is_better
    assert not metric.is_accuracy
    assert metric.reaches(0.1, 0.2)
    assert not metric.reaches(0.3, 0.2)


@pytest.mark.parametrize("name", ["accuracy", "val_acc", "test/top5_accuracy", "acc1", "top1_acc"])
def test_accuracies_are_best_when_largest(name):
    metric = Metric.of(name)
    assert metric.is_accuracy
    assert metric.reaches(0.3, 0.2)
    assert not metric.reaches(0.1, 0.2)


def test_other_metrics_are_best_when_largest_but_no_accuracies():
    metrics = [Metric.of(name) for name in ("f1", "auroc", "bleu", "accumulated_reward")]
    assert not any(metric.smaller_is_better or metric.is_accuracy for metric in metrics)
