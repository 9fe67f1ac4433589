"""Runnable recipes, ``python -m ts_lightning.recipes.<name>``: each trains in target space, or in weight space too."""
