"""TargetSpaceMonitor: a Lightning callback that logs how well each layer's solve is posed, and what it costs."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from ts_lightning.callbacks.histograms import histograms
from ts_lightning.callbacks.observation import Observation
from ts_lightning.callbacks.wandb import log_histograms
from ts_lightning.checks import built_in
from ts_lightning.engine.space import TargetSpace

_PREFIX = "target_space"


class TargetSpaceMonitor(Callback):
    """Watches target space through whatever logger the Trainer has: ``Trainer(callbacks=[TargetSpaceMonitor()])``.

    These quantities of every layer are logged as ``target_space/<quantity>/<layer>``, with their values after the step:

    - ``residual``: the relative residual ||A W - T|| / ||T|| of the solve, the part of the targets that is not reached.
      For a recurrent layer, the states in A are those along its targets.
    - ``condition``: the condition number of the regularised Gram matrix, A'A + R or its dual, estimated from its
      Cholesky factor; a lower bound.
    - ``rank``: the effective rank of A, tr((A'A + R)^-1 A'A), the effective degrees of freedom of the ridge regression:
      the number of directions in which targets can be reached.
    - ``ridge``: the ridge in use, the mean of R's diagonal.
    - ``weight_norm`` and ``target_norm``, the latter in units of the layer's outputs.
    - ``weight_gradient_norm`` and ``target_gradient_norm``: after the last backward pass and its pull-back, before
      clipping and without the loss scale of mixed precision. The gradient of the target is that of its parameter,
      which clipping sees too.

    A layer that solves several systems (a convolution one for each group, a GRU three) reports the largest condition,
    the smallest rank and the largest ridge. Formulas and sources are in ``ts_lightning/ridge/diagnostics.py``.

    ``target_space/share/solve``, ``/main`` (forward and backward of the loss) and ``/pullback`` are shares of the time
    that the first process spent on the whole step; the rest is the optimizer's own step.

    A :class:`~lightning.pytorch.loggers.WandbLogger` also gets histograms, ``target_space/targets/<layer>`` and
    ``target_space/weights/<layer>``, from the first process.

    Where the module is trained in weight space (``target_space = None``, or no mixin) the monitor says so and logs
    nothing.

    Args:
        every_n_steps: the least number of steps from one observation to the next. Only steps that the Trainer logs are
            observed, so that no observation is lost: with ``Trainer(log_every_n_steps=50)``, its default, and 200 here
            these are steps 50, 250, 450, .... All others run as without a monitor. The default keeps the cost below
            2 % of a step even where layers are tiny, most of it ``self.log``'s; the benchmark is
            ``benchmarks/monitor.py``. (Where manual optimisation makes no step in the batch, the next step is observed,
            and logged later.)

    Raises:
        ValueError: ``every_n_steps`` is not a whole number above 0.

    Examples:
        >>> from lightning.pytorch import Trainer
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> from lightning.pytorch.loggers import CSVLogger
        >>> from ts_lightning import TargetSpaceMixin, TargetSpaceMonitor
        >>> class Boring(TargetSpaceMixin, BoringModel):
        ...     pass
        >>> options = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
        >>> trainer = Trainer(
        ...     max_steps=2, log_every_n_steps=1, logger=CSVLogger("logs"), callbacks=[TargetSpaceMonitor(1)], **options
        ... )
        >>> trainer.fit(Boring())
        >>> sorted(name for name in trainer.logged_metrics if "residual" in name or "rank" in name)
        ['target_space/rank/layer', 'target_space/residual/layer']
    """

    def __init__(self, every_n_steps: int = 200) -> None:
        count = built_in(every_n_steps)
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"every_n_steps={every_n_steps!r}: expected a whole number above 0.")
        self.every_n_steps = count
        self._last: int | None = None  # step that was logged
        self._observation: Observation | None = None
        self._logged = False  # whether the Trainer still has the last metrics

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell the user if the module is trained in weight space."""
        self._last, self._observation, self._logged = None, None, False
        if _space(pl_module) is None:
            rank_zero_info(
                f"TargetSpaceMonitor has nothing to watch: {type(pl_module).__name__} is trained in weight space."
            )
        elif self._counting(trainer) is not self:
            rank_zero_warn(
                f"TargetSpaceMonitor(every_n_steps={self.every_n_steps}) does nothing, since the Trainer has another "
                f"one behind it, with every_n_steps={self._counting(trainer).every_n_steps}."
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start an observation if the Trainer logs this step and ``every_n_steps`` steps have passed since the last."""
        if self._logged:
            self._forget(trainer)
        space = _space(pl_module)
        if space is None:
            self._stop()  # of a step in which target space ended
        if space is None or self._observation is not None or not trainer._logger_connector.should_update_logs:
            return
        due = self._last is None or _step(trainer) - self._last >= self.every_n_steps
        if due and self._counting(trainer) is self:
            self._observation = Observation(space, lambda: _loss_scale(trainer))
            self._observation.begin()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the observation once the optimizer has made its step (with accumulation, in the last of its batches)."""
        observation = self._observation
        if observation is None or not observation.complete:
            return
        observation.end()
        if not trainer._logger_connector.should_update_logs:
            return  # of manual optimisation; logged later
        self._observation, self._last, self._logged = None, _step(trainer), True
        metrics = {f"{_PREFIX}/share/{part}": torch.tensor(share) for part, share in observation.shares().items()}
        for quantity, values in observation.values().items():
            metrics.update({f"{_PREFIX}/{quantity}/{name}": value for name, value in values.items()})
        pl_module.log_dict(dict(sorted(metrics.items())), on_step=True, on_epoch=False, batch_size=1)
        if any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
            found = histograms(observation.space)  # in all processes, since they share the targets
            panels = {f"{_PREFIX}/{kind}/{name}": histogram for (kind, name), histogram in found.items()}
            log_histograms(trainer, panels, _step(trainer) - 1)  # where Lightning has the metrics of this batch

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End an observation that is under way, restore the space, and tell the user if there was none at all."""
        self._stop()
        if self._last is None and _space(pl_module) is not None and self._counting(trainer) is self:
            rank_zero_info(
                "TargetSpaceMonitor observed nothing: it takes steps that the Trainer logs, and this fit had none. "
                "Give the Trainer a smaller log_every_n_steps."
            )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End an observation that is under way, and restore the space."""
        self._stop()

    def _stop(self) -> None:
        if self._observation is not None:
            self._observation.end()
            self._observation = None

    def _counting(self, trainer: Any) -> TargetSpaceMonitor:
        """The last monitor of several: a recipe brings one, and what a user adds to it counts."""
        return next((c for c in reversed(trainer.callbacks) if isinstance(c, TargetSpaceMonitor)), self)

    def _forget(self, trainer: Trainer) -> None:
        """Reset the logged metrics, which the Trainer would otherwise write again in steps without an observation."""
        self._logged = False
        for metric in trainer._results.values() if trainer._results is not None else ():
            if metric.meta.name.startswith(_PREFIX + "/"):
                metric.reset()


def _space(pl_module: LightningModule) -> TargetSpace | None:
    return getattr(pl_module, "target_space_engine", None)


def _step(trainer: Trainer) -> int:
    """The number of the present step, as Lightning counts it for ``log_every_n_steps``."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped + 1


def _loss_scale(trainer: Trainer) -> float:
    plugin = trainer.strategy.precision_plugin
    scaler = plugin.scaler if isinstance(plugin, MixedPrecision) else None
    return 1.0 if scaler is None else float(scaler.get_scale())
