"""What a run of the command line leaves in its folder while it trains: its settings, and a checkpoint to go on from."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import lightning
import torch
import yaml
from lightning.fabric.utilities.rank_zero import _get_rank
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only

import ts_lightning
from ts_lightning.amount import amount
from ts_lightning.errors import SettingError, meant_in
from ts_lightning.lightning.convert import space_of
from ts_lightning.report.run import CHECKPOINT, CONFIG

if sys.platform != "win32":
    import fcntl

#: settings of one run that another should not repeat
_ITS_OWN = ("out", "ckpt_path")
#: the object of another kind, in torch's error
_HELD = re.compile(r"GLOBAL ([\w.]+)")
#: an address like s3://, of which a path keeps one slash
_ADDRESS = re.compile(r"\w{2,}:/")
#: what Lightning takes for --ckpt_path beside a file
_KNOWN_CHECKPOINTS = ("last", "hpc", "registry")
#: the folders that this process has for its runs, to its end, by their descriptors
_taken: dict[Path, int] = {}


def is_first() -> bool:
    """Whether this is the only process, or the one of several that writes files."""
    rank = _get_rank()  # the environment's, which rank_zero_only has from the time of its import
    return bool((getattr(rank_zero_only, "rank", 0) if rank is None else rank) == 0)


def run_folder(name: str, out: Path | None) -> Path:
    """The folder of a new run: ``out``, or one named after program and time.

    Raises:
        SettingError: ``out`` holds files already, cannot be made, takes none, or is an address.
    """
    if out is not None:
        if _ADDRESS.match(str(out)):
            raise SettingError(f"--out '{out}': found an address; expected a folder of this machine.")
        out = Path(os.path.expanduser(out))  # a shell leaves the ~ of --out=~/run, and of a config, as it is
    folder = out or Path("runs") / name / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    found = None
    try:
        if out is None:
            folder = _claimed(folder)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            if not any(folder.iterdir()) and not _lock(folder):
                found = "another run"
            elif any(folder.iterdir()):  # also if they came just ahead of the lock
                _unlock(folder)
                found = "files"
    except OSError as error:
        raise SettingError(f"--out '{folder}': cannot be made ({error.strerror}).") from error
    if found is not None:
        raise SettingError(f"--out '{out}': found {found} in it; expected a new or an empty folder.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SettingError(f"--out '{folder}': no file can be written in it; expected a folder of your own.")
    return folder


def discard(folder: Path) -> None:
    """Take away the folder of a run that failed before it measured or saved anything."""
    _unlock(folder)
    files = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if files <= {CONFIG, "hparams.yaml"}:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def discarding(folder: Path | None) -> Iterator[None]:
    """Take a run's new folder away if the block fails before anything is in it, since it would pass for a run."""
    try:
        yield
    except Exception:
        if folder is not None and is_first():
            discard(folder)
        raise


def _lock(folder: Path) -> bool:
    """Lock a folder for this process, to its end; false if another run has it, which may not have written yet."""
    if sys.platform == "win32":  # where no folder can be locked
        return True
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        return not isinstance(error, BlockingIOError)  # any other is of a file system without locks
    _taken[folder] = descriptor
    return True


def _unlock(folder: Path) -> None:
    if folder in _taken:
        os.close(_taken.pop(folder))


def _claimed(folder: Path) -> Path:
    """A new ``folder``, or one with a number behind it if another run has it, which may begin in the same moment."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    candidate, number = folder, 1
    while True:
        try:
            candidate.mkdir()
        except FileExistsError:
            number += 1
            candidate = folder.with_name(f"{folder.name}_{number}")
        else:
            return candidate


def loaded(file: Path, *, mmap: bool = False) -> Any:
    """What a file of ``torch.save`` holds, on the CPU.

    Args:
        file: of torch.save or Lightning.
        mmap: leave the tensors on file until they are looked at.

    Raises:
        SettingError: it cannot be read, or it holds other than tensors and built-in types.
    """
    try:
        # an archive can be mapped, and the form of before torch 1.6 cannot
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap and is_zipfile(file))
    except OSError as error:
        if file.is_dir():
            raise SettingError(
                f"'{file}': found a folder.{meant_in(file, CHECKPOINT)} Expected a file of torch.save or Lightning."
            ) from error
        raise SettingError(f"'{file}': cannot be read ({error.strerror}).") from error
    except Exception as error:  # whatever reading bytes of another form raises
        held = _HELD.search(str(error))
        raise SettingError(
            f"'{file}': not a file of tensors and built-in types{f' (it holds {held[1]})' if held else ''}; expected "
            f"what torch.save or Lightning wrote."
        ) from error


def checkpoint(file: Path, *names: str, mmap: bool = False) -> dict[str, Any]:
    """What a checkpoint of Lightning holds, its weights among it.

    Args:
        file: of Lightning.
        names: what else it is to hold.
        mmap: leave the tensors on file until they are looked at.

    Raises:
        SettingError: it cannot be read, or it is a file of tensors and no checkpoint, as one of ``model.state_dict()``.
    """
    found = loaded(file, mmap=mmap)
    without = [name for name in ("state_dict", *names) if not isinstance(found, dict) or name not in found]
    if without:
        raise SettingError(
            f"'{file}': found no {without[0]} in it; expected a Lightning checkpoint, as last.ckpt of a run."
        )
    held: dict[str, Any] = found
    return held


def check_checkpoint(given: Any, command: str) -> None:
    """Refuse a file for ``--ckpt_path`` with which Lightning's command would fail, before anything is made.

    Raises:
        SettingError: it is none that the command can load, as weights alone of which a fit cannot go on.
    """
    if given == "best":  # which Lightning remembers of a fit in the same process
        raise SettingError("--ckpt_path best: a command begins without a best checkpoint; expected a file.")
    if given is not None and given not in _KNOWN_CHECKPOINTS and "://" not in str(given):
        names = ("pytorch-lightning_version", *(["optimizer_states"] if command == "fit" else []))
        checkpoint(Path(given), *names, mmap=True)  # mapped, its tensors are not read


class Settings(SaveConfigCallback):
    """Writes ``config.yaml``, which ``--config`` reads to repeat the run, and gives all settings to the loggers."""

    def __init__(self, parser: Any, config: Any, **options: Any) -> None:
        super().__init__(parser, config, save_to_log_dir=False, **options)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the file, in the one process that does, unless the run has no folder."""
        if trainer.barebones:  # whose root is the present folder
            return
        text = self.parser.dump(self.config, skip_none=False, skip_validation=True)  # it was parsed
        settings = yaml.safe_load(text)
        for name in _ITS_OWN:
            settings.pop(name, None)
        versions = [("ts_lightning", ts_lightning), ("torch", torch), ("lightning", lightning)]
        head = ", ".join(f"{name} {module.__version__}" for name, module in versions)
        threads = torch.get_num_threads()
        head = f"{head}, {amount(threads, 'CPU thread')}"
        text = f"# {head}\n{yaml.safe_dump(settings, sort_keys=False)}"
        (Path(trainer.default_root_dir) / self.config_filename).write_text(text, encoding="utf-8")
        for logger in trainer.loggers:
            if not isinstance(logger, CSVLogger):  # which would write a second file of them
                logger.log_hyperparams({"space": space_of(pl_module), **settings})


class LastCheckpoint(Checkpoint):
    """Keeps ``last.ckpt`` up to date: after every epoch, at the end of training, and on Ctrl-C.

    Where target space has failed, so that the fit is about to end, the last one with finite weights stays.

    Args:
        file: where it is written.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._step = -1
        self.best_model_path = ""  # none, which Lightning says in words where one asks for the best

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Agree on the file; processes may have made up their own names."""
        self.file = trainer.strategy.broadcast(self.file)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it."""
        self._save(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it if training ended within an epoch."""
        if self._step != trainer.global_step:
            self._save(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write it after Ctrl-C, once training had begun."""
        if isinstance(exception, KeyboardInterrupt) and trainer.optimizers:
            self._save(trainer, pl_module)

    def _save(self, trainer: Trainer, pl_module: LightningModule) -> None:
        space = getattr(pl_module, "target_space_engine", None)
        solved = [] if space is None else [weight for layer in space.layers for weight in layer.parameters]
        if not all(weight.isfinite().all() for weight in solved):  # every process has all, so that all decide alike
            return
        self._step = trainer.global_step
        trainer.save_checkpoint(self.file)
