"""A training script that is killed, and goes on from the newest checkpoint when it is started again."""

from __future__ import annotations

import errno
import os
import signal
import sys
import tempfile
from dataclasses import dataclass, field, replace

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from tests.support.resuming import CONFIG, Resumable, build, everything, fit

FILE_OPERATIONS = ("open", "write", "rename", "chmod", "unlink", "remove")


@dataclass
class Training:
    """What a training came to, and the calls of Python and C functions in it, which are its moments.

    Attributes:
        end: everything that was trained.
        losses: of this process's steps.
        calls: their number.
        saving: the calls in which checkpoints were written and old ones removed, as ranges.
        on_files: the calls of the operating system's functions among these, with their names.
    """

    end: dict = field(default_factory=dict)
    losses: list = field(default_factory=list)
    calls: int = 0
    saving: list = field(default_factory=list)
    on_files: list = field(default_factory=list)


def train(folder, kill_at=None, killed=0, ckpt_path="last", every=2):
    """Train alone or with the other ranks; be killed at the call ``kill_at``, counted from the start of the fit.

    Every so many steps a checkpoint is written.
    """
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    tempfile.tempdir = str(folder)  # as TMPDIR does: files are written on the file system where they shall be
    model = build(batch_norm=ranks == 1)
    model.target_space = replace(CONFIG, reference=replace(CONFIG.reference, refresh=2, selection="random"))
    kept = ModelCheckpoint(folder, "{step}", every_n_train_steps=every, save_last=True)
    several = {"strategy": "ddp", "devices": ranks, "use_distributed_sampler": False} if ranks > 1 else {}
    training = Training()
    sys.setprofile(_counting(training, kill_at if rank == killed else None))
    try:
        run = fit(model, Resumable(rank=rank, ranks=ranks), callbacks=[kept], ckpt_path=ckpt_path, **several)
    finally:
        sys.setprofile(None)
    training.end, training.losses = everything(run), model.losses
    return training


def train_across_file_systems(folder, kill_in):
    """``train`` where a written file can't be moved to its place and is copied; killed in the middle of one of them."""
    files = 0

    def rename(*paths):
        nonlocal files
        files += 1
        raise OSError("Invalid cross-device link")

    def copy(target, source, offset, count, whole=os.sendfile):
        if files == kill_in and offset > 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(target, source, offset, min(count, 4096))

    def at_once(*files, **offsets):  # which Python tries first from 3.14 on
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    os.rename, os.sendfile, os.copy_file_range = rename, copy, at_once
    return train(folder)


def newest(folder):
    """The step of the newest checkpoint of a folder; all of them are whole."""
    steps = [torch.load(file, weights_only=True)["global_step"] for file in sorted(folder.glob("*.ckpt"))]
    return max(steps, default=0)


def _counting(training, kill_at):
    save = ModelCheckpoint.on_train_batch_end.__code__
    begun = None

    def count(frame, event, called):
        nonlocal begun
        training.calls += 1
        if training.calls == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if frame.f_code is save and event == "call":
            begun = training.calls
        elif frame.f_code is save and event == "return":
            if training.on_files and training.on_files[-1][0] > begun:
                training.saving.append(range(begun, training.calls))
            begun = None
        elif begun is not None and event == "c_call" and called.__name__ in FILE_OPERATIONS:
            training.on_files.append((training.calls, called.__name__))

    return count
