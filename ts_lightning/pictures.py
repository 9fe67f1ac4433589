"""Callbacks that draw, under their public name; see :mod:`ts_lightning.callbacks.pictures`."""

from ts_lightning.callbacks.pictures import ConfusionMatrix, DecisionRegions, SamplePredictions, WorstTexts

__all__ = ["ConfusionMatrix", "DecisionRegions", "SamplePredictions", "WorstTexts"]
