"""The base of all pictures: it collects a classifier's predictions on test data, and says where files go.

The logits are those that the module computes in its own test or validation step: a forward hook keeps the output of
``self(x)`` for the x of the batch. Only if the step makes no such call, the module is called once more.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ts_lightning.amount import amount
from ts_lightning.callbacks.wandb import log_image
from ts_lightning.errors import TargetSpaceError

#: the class of samples without one, which losses of PyTorch leave out by default
_IGNORED = -100


class PredictionCallback(Callback):
    """Base class of the callbacks that show how a classifier does on data that it was not trained on.

    It works with any LightningModule whose batches are (x, y), with classes y (batch,), and whose ``forward(x)`` gives
    logits (batch, classes). ``trainer.test`` and ``trainer.validate`` end with a picture of all their batches,
    ``trainer.fit`` with one of its last validation, which a test then writes anew. Of several dataloaders the first is
    taken. Files go to ``trainer.log_dir``, and to every WandbLogger under ``pictures/<name>``; one process writes.

    Samples with the class -100, which the cross-entropy of PyTorch leaves out (``ignore_index``), are left out here.

    Attributes:
        name: of the files, without suffix.
        split: which data was seen, ``test`` or ``validation``.
        places: of the batch that is added, the samples' numbers in the order of the dataloader, on the CPU.

    Raises:
        TargetSpaceError: batches or logits have another form; in a fit when validation first runs, before training.

    Examples:
        A callback of your own, which writes down the classes that were predicted:

        >>> from ts_lightning.callbacks.pictures.predictions import PredictionCallback
        >>> class Predicted(PredictionCallback):
        ...     name = "predicted"
        ...
        ...     def start(self, trainer):
        ...         self.classes = []
        ...
        ...     def add(self, x, y, logits):
        ...         self.classes += logits.argmax(dim=1).tolist()
        ...
        ...     def write(self, trainer, pl_module, file_stem):
        ...         file_stem.with_suffix(".txt").write_text(str(self.classes))

        It is used as those of this package are, ``Trainer(callbacks=[Predicted()])``:

        >>> import torch
        >>> from lightning.pytorch import LightningModule, Trainer
        >>> class Sign(LightningModule):
        ...     def forward(self, x):
        ...         return torch.cat([-x, x], dim=1)
        ...
        ...     def test_step(self, batch, batch_idx):
        ...         self(batch[0])
        >>> data = torch.utils.data.TensorDataset(torch.tensor([[1.0], [-2.0], [3.0]]), torch.tensor([1, 0, 1]))
        >>> trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[Predicted()])
        >>> _ = trainer.test(Sign(), torch.utils.data.DataLoader(data, batch_size=3), verbose=False)
        >>> print(open("predicted.txt").read())
        [1, 0, 1]
    """

    name: ClassVar[str]
    split = "test"
    places = torch.empty(0, dtype=torch.int64)
    _samples = _given = 0
    _x: Tensor | None = None
    _logits: Tensor | None = None
    _handle: RemovableHandle | None = None

    def start(self, trainer: Trainer) -> None:
        """Forget the samples of an earlier pass over the data."""
        raise NotImplementedError

    def add(self, x: Tensor, y: Tensor, logits: Tensor) -> None:
        """Take in a batch: x (batch, ...), y (batch,) int64, logits (batch, classes) float32."""
        raise NotImplementedError

    def gather(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Combine the results of all processes; called in each of them."""

    def write(self, trainer: Trainer, pl_module: LightningModule, file_stem: Path) -> None:
        """Write the files and log to W&B; called in the process of rank zero only."""
        raise NotImplementedError

    def _begin(self, trainer: Trainer, pl_module: LightningModule, split: str) -> None:
        self._end()
        self.split, self._samples, self._given = split, 0, 0
        self.start(trainer)
        self._handle = pl_module.register_forward_hook(self._keep)

    def _keep(self, module: Any, args: tuple[Any, ...], output: Any) -> None:
        if self._x is not None and args and args[0] is self._x:
            self._logits = output

    def _expect(self, batch: Any, dataloader_idx: int) -> None:
        if dataloader_idx == 0:
            pair = isinstance(batch, (tuple, list)) and len(batch) == 2
            self._x = batch[0] if pair and isinstance(batch[0], Tensor) else None

    def _take(self, trainer: Trainer, pl_module: LightningModule, batch: Any, dataloader_idx: int) -> None:
        if dataloader_idx > 0:
            return
        x, logits = self._x, self._logits
        self._x = self._logits = None
        y = batch[1] if x is not None else None
        if x is None or not isinstance(y, Tensor) or y.dim() != 1 or y.is_floating_point():
            raise TargetSpaceError(
                f"{type(self).__name__} found {_form(batch)} as a batch; expected (x, y) with classes y (batch,), "
                f"integers. Take the callback out, or give such batches."
            )
        if logits is None:
            with trainer.precision_plugin.forward_context():
                logits = pl_module(x)
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(y) or logits.shape[1] < 2:
            raise TargetSpaceError(
                f"{type(self).__name__} found {_form(logits)} from forward(x) for "
                f"{amount(len(y), 'class', 'classes')} y; expected logits (batch, classes), of at "
                f"least two. Take the callback out, or give such logits."
            )
        labelled = y != _IGNORED
        beyond = y[labelled & ((y < 0) | (y >= logits.shape[1]))]
        if len(beyond):
            raise TargetSpaceError(
                f"{type(self).__name__} found class {int(beyond[0])} among y; expected 0 to {logits.shape[1] - 1}, the "
                f"classes of the logits, or {_IGNORED} for samples without a class. Take the callback out, or give "
                f"such classes."
            )
        self.places = labelled.nonzero().flatten().cpu() + self._given
        self._given += len(y)
        self._samples += len(self.places)
        if not labelled.all():
            x, y, logits = x[labelled], y[labelled], logits[labelled]
        if len(y):
            self.add(x, y.long(), logits.detach().float())

    def _end(self) -> None:
        self._x = self._logits = None
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _finish(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # which is to leave no files, and which the Trainer's class does not declare
        if self._given == 0 or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        without = torch.tensor(float(self._samples == 0), device=pl_module.device)
        # its type is that of any value; it gives a tensor for a tensor
        if trainer.strategy.reduce(without, reduce_op="sum") > 0:  # type: ignore[operator]
            rank_zero_warn(f"{type(self).__name__} found no samples with a class, and writes nothing.")
            return
        self.gather(trainer, pl_module)
        folder = Path(trainer.log_dir or trainer.default_root_dir)  # asked of all processes, which agree on it
        if trainer.is_global_zero:
            folder.mkdir(parents=True, exist_ok=True)
            self.write(trainer, pl_module, folder / self.name)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start to collect predictions on the test data."""
        self._begin(trainer, pl_module, "test")

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start to collect predictions on the validation data."""
        self._begin(trainer, pl_module, "validation")

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Remember the batch's x, whose logits the module is about to compute."""
        self._expect(batch, dataloader_idx)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take in the batch and its logits."""
        self._take(trainer, pl_module, batch, dataloader_idx)

    on_validation_batch_start = on_test_batch_start
    on_validation_batch_end = on_test_batch_end

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the results of the test."""
        self._end()
        self._finish(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write after ``trainer.validate``; in a fit there may be a later validation."""
        self._end()
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._finish(trainer, pl_module)

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the batches of the sanity check, which has shown that they have the right form."""
        self._samples = self._given = 0

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the results of the last validation."""
        self._finish(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Take the forward hook off the module."""
        self._end()


class Picture(PredictionCallback):
    """Base class of the callbacks that draw ``<name>.png`` and ``<name>.svg``."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that matplotlib is installed, before any work is done.

        Raises:
            TargetSpaceError: matplotlib is not installed.
        """
        if find_spec("matplotlib") is None:
            raise TargetSpaceError(
                f"{type(self).__name__} draws with matplotlib, which is not installed: pip install matplotlib, or take "
                f"the callback out."
            )

    def write(self, trainer: Trainer, pl_module: LightningModule, file_stem: Path) -> None:
        """Draw, and log the picture to W&B."""
        self.draw(trainer, pl_module, file_stem)
        log_image(trainer, f"pictures/{self.name}", file_stem.with_name(f"{file_stem.name}.png"))

    def draw(self, trainer: Trainer, pl_module: LightningModule, file_stem: Path) -> None:
        """Draw ``<file_stem>.png`` and ``.svg``."""
        raise NotImplementedError


def class_names(trainer: Trainer, pl_module: LightningModule, classes: int) -> list[str]:
    """The label of each class: ``labels`` of the module or of the data module if it has as many, else numbers."""
    for owner in (pl_module, getattr(trainer, "datamodule", None)):
        labels = getattr(owner, "labels", None)
        if isinstance(labels, (list, tuple)) and len(labels) == classes:
            return [str(label) for label in labels]
    return [str(number) for number in range(classes)]


def percent(share: float) -> str:
    """A share in per cent; 100.0 % and 0.0 % mean exactly all and none, whatever rounding says."""
    rounded = 100 * share
    if 0 < share < 1:
        rounded = min(max(rounded, 0.1), 99.9)
    return f"{rounded:.1f} %"


def _form(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, (tuple, list)) and len(value) <= 4:
        return f"a {type(value).__name__} of {', '.join(map(_form, value)) or 'nothing'}"
    return f"a {type(value).__name__}"
