"""Lightning callbacks that show what a classifier does on test data: pictures and a table, on file and in W&B."""

from ts_lightning.callbacks.pictures.confusion_matrix import ConfusionMatrix
from ts_lightning.callbacks.pictures.decision_regions import DecisionRegions
from ts_lightning.callbacks.pictures.sample_predictions import SamplePredictions
from ts_lightning.callbacks.pictures.worst_texts import WorstTexts

__all__ = ["ConfusionMatrix", "DecisionRegions", "SamplePredictions", "WorstTexts"]
