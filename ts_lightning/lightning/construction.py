"""Building the target space of a fit: on which reference batch, from what was restored, the weights, or anew."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import move_data_to_device, rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from ts_lightning.config import TargetSpaceConfig
from ts_lightning.engine.beginning import from_weights
from ts_lightning.engine.running.batches import batch_size, formed, mapped, tensors_in
from ts_lightning.engine.running.generators import unmoved
from ts_lightning.engine.space import TargetSpace
from ts_lightning.errors import TargetSpaceError, Unreached
from ts_lightning.lightning.checkpoint import Restored
from ts_lightning.lightning.conversion import Change
from ts_lightning.lightning.fingerprint import differing
from ts_lightning.lightning.module import TargetSpaceModule, gives
from ts_lightning.lightning.reference_call import by_position, by_signature, needs, reference_call
from ts_lightning.lightning.reference_data import form_of, generators_beside
from ts_lightning.lightning.strategy import process_group
from ts_lightning.lightning.trial import quiet, transferred

_TOLERANCE = 1e-3  # of a weight's norm, up to which a batch that is taken anew is that of the targets


class Construction:
    """Builds target spaces for one module.

    Args:
        module: the module.

    Attributes:
        epoch: in which the reference batch was taken.
        restoring: the ``state_dict`` that a Trainer is restoring in a fit, whose weights are no user's.
    """

    def __init__(self, module: TargetSpaceModule) -> None:
        self._module = module
        self.epoch = 0
        self.restoring: Mapping[str, Any] | None = None
        self._loaded: dict[int, nn.Parameter] = {}
        self._call: Callable[[Any], Any] | None = None  # of a batch

    def load(self, state: Mapping[str, Any]) -> None:
        """Note which parameters a user has loaded, by the ``state_dict`` that these were in."""
        if state is not self.restoring:
            named = self._module.named_parameters()
            self._loaded.update({id(parameter): parameter for name, parameter in named if name in state})

    def forget(self) -> None:
        """Forget what was loaded, which training has changed."""
        self._loaded.clear()

    def space(self, settings: TargetSpaceConfig, restored: Restored | None) -> tuple[TargetSpace, bool]:
        """A target space, and whether it goes on from the targets that were restored.

        Raises:
            TargetSpaceError: what a fit was given to resume from does not fit it, or there is no reference batch.
        """
        if restored is None:
            return self._made(self.drawn(), settings), False
        keeps_all = settings.init != "auto" or restored.resuming or restored.same_module
        kept = from_weights(settings) if keeps_all else settings
        entry = restored.entry if restored.resuming else restored.chosen_anew(self._module)
        if entry is None:
            return self._made(self.drawn(), kept), False
        why = restored.mismatch(settings)
        if why is not None and restored.resuming:
            raise TargetSpaceError(
                f"{why} Use the same, or start from the checkpoint's weights alone: load them, and fit without "
                f"ckpt_path."
            )
        changed = differing(self._module, entry["weights"])
        why = why or restored.solved_otherwise(settings, self._module)
        if why is None and changed:
            why = f"The weights {', '.join(changed)} are not those that the targets were solved to."
        if why is None:
            try:
                batch, known = self._stored(entry, restored)
                space = self._gone_on(batch, settings, entry) if known else None
                if space is not None:
                    return space, True
                why = "The training data has another reference batch than the targets are of."
            except TargetSpaceError as error:
                if restored.resuming and not isinstance(error, Unreached):
                    raise
                why = str(error)
        rank_zero_warn(f"{why} Target space starts from the weights, on a reference batch of the present data.")
        return self._made(self.drawn(), kept), False

    def again(self, settings: TargetSpaceConfig, space: TargetSpace, converted: Change | None = None) -> TargetSpace:
        """A target space on the reference batch of an earlier one; in all processes.

        Around the present weights, or with the earlier one's targets where the module was ``converted``.
        """
        entry = space.state_dict()
        if entry["reference"] is None:
            batch = self.drawn(self.epoch)
        else:
            batch = move_data_to_device(entry["reference"], self._module.device)
            batch = batch if entry["plain"] else formed(batch, self.drawn(self.epoch))
            batch = batch if converted is None else mapped(batch, converted.of)
        return self._made(batch, from_weights(settings)) if converted is None else self._made(batch, settings, entry)

    def drawn(self, epoch: int = 0, seed: int | None = None) -> Any:
        """A new reference batch, the same in all processes, as the training loop would hand it on.

        Args:
            epoch: in which it is taken.
            seed: where the generators start that data sets and hooks hold; as they are by default.
        """
        self.epoch = epoch
        trainer = self._module.trainer
        with unmoved(generators_beside(trainer, self._module), seed):
            batch = trainer.strategy.broadcast(self._module.reference_batch())
            batch = trainer.precision_plugin.convert_input(batch)
            with transferred(self._module):
                batch = self._module._on_before_batch_transfer(batch)
                return trainer.strategy.batch_to_device(batch)

    def _drawn_otherwise(self) -> Any:
        """The reference batch once more, by other random numbers, which augmentation makes another one of."""
        with isolate_rng(include_cuda=torch.cuda.is_initialized()):  # type: ignore[no-untyped-call]
            # one number on, since the seed chooses the samples
            torch.rand(1), random.random(), np.random.random()  # noqa: NPY002 (the global one)
            return self.drawn(self.epoch, seed=1)

    def call(self, batch: Any) -> Any:
        """Run the module on a batch where it has no ``reference_forward`` of its own."""
        call = self._call or by_signature(self._module, batch) or by_position(self._module, batch)
        if call is None:  # reached by an override that calls this
            raise TargetSpaceError(
                f"{needs(self._module, batch)} Override reference_forward(batch) to call the model with it."
            )
        return call(batch)

    def _made(self, batch: Any, config: TargetSpaceConfig, state: dict[str, Any] | None = None) -> TargetSpace:
        """A target space on a reference batch."""
        module = self._module
        if any(tensor.is_nested and tensor.layout == torch.strided for tensor in tensors_in(batch)):
            raise TargetSpaceError(
                "The reference batch holds a nested tensor, whose samples have no common shape. Override "
                "reference_batch() to return a padded tensor or one of layout torch.jagged, and reference_forward() to "
                "run the model on it."
            )
        if batch_size(batch) == 0:
            raise TargetSpaceError(f"The reference batch is empty: found {form_of(batch)}. Expected samples.")
        changes = state is not None and bool(state.get("idle"))
        self._call = None if gives(module, "reference_forward") else reference_call(module, batch, changes=changes)
        group = process_group(module.trainer.strategy)
        loaded = list(self._loaded.values())
        config = replace(config, until=None)  # the session's
        return TargetSpace(module, batch, config, forward=self._forward, state=state, group=group, loaded=loaded)

    def _gone_on(self, batch: Any, settings: TargetSpaceConfig, entry: dict[str, Any]) -> TargetSpace | None:
        """A target space with the targets of an entry; None where the batch turns out to be another."""
        if entry["reference"] is not None:
            return self._made(batch, settings, entry)
        given = [parameter.detach().clone() for parameter in self._module.parameters()]
        space = self._made(batch, settings, entry)
        present = list(self._module.parameters())
        if all(float((p - w).norm()) <= _TOLERANCE * float(w.norm()) for p, w in zip(present, given, strict=True)):
            return space
        space.release()
        with torch.no_grad():
            for parameter, weight in zip(present, given, strict=True):
                parameter.copy_(weight)
        return None

    def _forward(self, batch: Any) -> Any:
        with quiet(self._module):
            return self._module.reference_forward(batch)

    def _stored(self, entry: dict[str, Any], restored: Restored) -> tuple[Any, bool]:
        """The reference batch of an entry, as the training loop would hand it on; and whether it is to be used.

        A fit behind another one takes the batch of its own data, unless this is the same, or is another one each time.
        """
        self.epoch = entry["epoch"]
        if entry["reference"] is None:
            return self.drawn(self.epoch), True
        batch = move_data_to_device(entry["reference"], self._module.device)
        batch = self._module.trainer.precision_plugin.convert_input(batch)
        if restored.resuming:
            return (batch if entry["plain"] else formed(batch, self.drawn(self.epoch))), True
        drawn = self.drawn(self.epoch)
        if not entry["plain"]:
            batch = formed(batch, drawn)
        if _same(batch, drawn):
            return drawn, True  # in the precision that the module has now
        if _same(drawn, self._drawn_otherwise()):
            return drawn, False
        rank_zero_info(
            "Target space: goes on with the reference batch of the last fit, since the training data gives another one "
            "each time that it is asked."
        )
        return batch, True


def _same(one: Any, other: Any) -> bool:
    """Whether two batches hold the same tensors."""
    first, second = list(tensors_in(one)), list(tensors_in(other))
    return len(first) == len(second) and all(
        a.shape == b.shape and torch.equal(a, b.to(a.dtype)) for a, b in zip(first, second, strict=True)
    )
