"""One thread, so that equal computations give equal bits; Lightning's banners off."""

import logging

import torch

torch.set_num_threads(1)
for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
    logging.getLogger(name).setLevel(logging.ERROR)
