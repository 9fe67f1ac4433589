"""What target space does in a fit: begin, restore, refresh, end.

A fit begins where Lightning's training loop starts, behind the sanity check: by then the loop has its data, and it is
known that there is something to train. The session stands at places that no user overrides: the loop's start, the
strategy's start of a batch and its tear-down, and the two checkpoint hooks, which the mixin lets it hear whoever
overrides them. What is loaded waits until training starts or goes on, and then the targets are built from it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from operator import is_
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from ts_lightning.config import TargetSpaceConfig
from ts_lightning.engine.space import TargetSpace
from ts_lightning.engine.steps.made import Made
from ts_lightning.engine.steps.optimizers import constructed_states
from ts_lightning.errors import NothingToSolve
from ts_lightning.lightning.checkpoint import SETTINGS, Restored, class_path, save
from ts_lightning.lightning.construction import Construction
from ts_lightning.lightning.conversion import Conversion, say_changed
from ts_lightning.lightning.covers import Covers
from ts_lightning.lightning.fingerprint import fingerprints, written_since
from ts_lightning.lightning.handing_over import HandingOver
from ts_lightning.lightning.hook import SolveHook
from ts_lightning.lightning.module import TargetSpaceModule, refuse_other_uses
from ts_lightning.lightning.optimized import optimized_only, say_nothing_is_solved, say_what_is_trained
from ts_lightning.lightning.substitution import KEY, Substitution
from ts_lightning.lightning.training_data import isolated, refused


def session_of(module: TargetSpaceModule) -> Session:
    """The session of a module; no attribute, since TorchScript reads these."""
    found = module.__dict__.get("_target_space_session")
    if found is None:
        found = module.__dict__["_target_space_session"] = Session(module)
    return found


class Session:
    """The target space of one module, from fit to fit.

    Args:
        module: the module.

    Attributes:
        construction: how its target space is built.
        fits: the Trainer that fits the module, from the beginning to the end of the fit.
    """

    def __init__(self, module: TargetSpaceModule) -> None:
        self.module = module
        self.construction = Construction(module)
        self._handing_over = HandingOver(module)
        self._restored: Restored | None = None
        self._constructed: list[Made] = []  # states, by the constructors of the present optimizers
        self._substitutions: list[Substitution] = []
        self._hook: SolveHook | None = None
        self._conversion: Conversion | None = None
        self._covers = Covers()
        self._begun = False  # for as long as a fit goes on
        self.fits: Trainer | None = None
        self._left: dict[str, dict[str, str]] = {}  # fingerprints of the weights at the end of the last fit

    @property
    def trainer(self) -> Trainer:
        """The module's Trainer."""
        return self.module.trainer

    def attach(self, trainer: Trainer) -> None:
        """Stand at the places of a fit that is about to start; nothing new where it goes on, as when given back."""
        if trainer is self.fits:
            return
        TargetSpaceConfig.checked(self.module.target_space, f"{type(self.module).__name__}.target_space")
        self._covers.uncover()
        self._begun, self.fits = False, trainer
        self._handing_over.attach(trainer)
        if self._restored is not None and self._restored.resuming:
            self._restored = None  # of a fit that could not load its checkpoint
        self._covers.cover(trainer.fit_loop, "on_run_start", self._on_run_start)
        self._covers.cover(trainer.strategy, "setup_optimizers", self._setup_optimizers)
        self._covers.cover(trainer.strategy, "on_train_batch_start", self._on_train_batch_start)
        self._covers.cover(trainer.strategy, "teardown", self._end)

    def saved(self, checkpoint: dict[str, Any]) -> None:
        """Add what target space needs to go on to a checkpoint, under its own keys."""
        module = self.module
        if SETTINGS in checkpoint:
            return  # heard already, in an override that calls another
        settings = None if module.target_space is None else module.target_space.to_dict()
        own = self._handing_over.own
        checkpoint[SETTINGS] = {"class": class_path(type(module)), "settings": settings, "weight_optimizers": own}
        space, restored = module.target_space_engine, self._restored
        if restored is not None and restored.entry is not None:
            checkpoint[KEY] = restored.entry  # what nothing has been trained from
            if "optimizer_states" in checkpoint and restored.optimizer_states:
                checkpoint["optimizer_states"] = list(restored.optimizer_states)
        elif space is not None:
            present = [id(substitution.optimizer) for substitution in self._substitutions]
            same = present == list(map(id, self.trainer.strategy.optimizers))
            ended = {} if self._hook is not None else {"written": written_since(space, self._left)}
            save(checkpoint, space, self._substitutions if same else [], epoch=self.construction.epoch, **ended)

    def loaded(self, checkpoint: dict[str, Any]) -> None:
        """Keep what of a checkpoint the next fit starts from, or the present one goes back to.

        ``load_from_checkpoint`` restores the settings of the run, too, unless they are an argument of the module's.
        """
        module, fitting = self.module, self._fitting()
        arguments, written = checkpoint.get(module.CHECKPOINT_HYPER_PARAMS_KEY, {}), checkpoint.get(SETTINGS, {})
        settings = written.get("settings")
        if module._trainer is None and written and "target_space" not in arguments:
            module.target_space = None if settings is None else TargetSpaceConfig.from_dict(settings)
        entry = checkpoint.get(KEY)
        if module.target_space is None:
            if entry is not None and fitting:
                rank_zero_warn(
                    "The checkpoint is of target space, and the module has target_space=None: it goes on in weight "
                    "space from the checkpoint's weights, with fresh moments."
                )
            return
        self._leave()
        # of before a fit, as callbacks save that try something out, like the finders
        untrained = entry is None and settings and checkpoint["global_step"] == 0
        states = checkpoint.get("optimizer_states", ()) if fitting else ()
        self.construction.restoring = checkpoint.get("state_dict") if fitting else None
        self._restored, self._begun = None if untrained else Restored(entry, states, fitting, settings=settings), False
        if self._restored is not None:
            steps, own = checkpoint.get("global_step", 0), written.get("weight_optimizers", False)
            self._handing_over.loaded(steps, self._restored, own)

    def _fitting(self) -> bool:
        """Whether a Trainer is running a fit with the module."""
        state = None if self.module._trainer is None else self.module._trainer.state
        return state is not None and state.fn == TrainerFn.FITTING and state.status == TrainerStatus.RUNNING

    def _setup_optimizers(self, trainer: Trainer) -> None:
        """Set optimizers up; where the fit goes on behind the end of target space, those of weight space."""
        if self.module.target_space is not None:
            refuse_other_uses(self.module)  # now that it has set itself up, and ahead of its first forward
        self._handing_over.set_up(
            partial(self._covers.own(trainer.strategy, "setup_optimizers"), trainer), self._restored
        )
        self._constructed = [made for one in trainer.strategy.optimizers for made in constructed_states(one)]

    def _on_run_start(self) -> None:
        """Begin, before any callback hears of the start of training."""
        if not refused(self.trainer):
            self._begin()
        self._covers.own(self.trainer.fit_loop, "on_run_start")()

    def _on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Go on from what was loaded within the fit, with a changed model, or on another reference batch if so set."""
        self._begin()
        self._hand_over()
        self._follow_model()
        self._refresh()
        self._covers.own(self.trainer.strategy, "on_train_batch_start")(batch, batch_idx)

    def _begin(self) -> None:
        """Build the target space, once in a fit: from what was loaded, from the last fit, or anew."""
        if self._begun:
            return
        self._begun = True
        module = self.module
        restored, self._restored = self._restored, None
        last, module.target_space_engine = module.target_space_engine, None
        states = self._give_back()
        if last is not None:
            last.release()
        if self._handing_over.is_over(self.trainer.global_step, restored):
            self._handing_over.trained = True
            self._handing_over.say_it_is_over()
            return
        if restored is None and last is None and self._handing_over.trained:
            restored = Restored(None, same_module=True)
        settings = optimized_only(module, module.target_space, self.trainer.strategy.optimizers)
        if settings is None:
            return
        if restored is None and last is not None:
            same = replace(last.config, cuda_graphs=settings.cuda_graphs, until=settings.until) == settings
            more = {"weights": self._left, "drawn": {}, "epoch": self.construction.epoch}
            entry = {**last.state_dict(), **more} if same else None
            restored = Restored(entry, states, same_module=True)
        with isolated(self.trainer):
            try:
                space, goes_on = self.construction.space(settings, restored)
            except NothingToSolve as error:
                if settings == module.target_space:
                    raise
                say_nothing_is_solved(error)  # since optimizers train other parameters than those of layers
                return
        self._train(space, restored if goes_on else None)

    def _train(self, space: TargetSpace, restored: Restored | None = None) -> None:
        """Let the present optimizers train a target space, with the moments that were restored."""
        rank_zero_info(space.describe())
        optimizers = self.trainer.strategy.optimizers
        say_what_is_trained(space, optimizers)
        self._substitutions = [Substitution(space, optimizer, self._constructed) for optimizer in optimizers]
        states = () if restored is None else restored.optimizer_states
        for substitution, state in zip(self._substitutions, states, strict=False):
            substitution.load_moments(state)
        self._hook = SolveHook(self.trainer.strategy, space)
        self._hook.attach()
        self.module.target_space_engine, self._conversion = space, Conversion(self.module)
        self._handing_over.say_what_it_ends()

    def _follow_model(self) -> None:
        """Begin anew from the present weights where parameters or optimizers are others than those of the targets.

        Where the parameters have another precision alone, targets and moments go on in it.
        """
        module, space = self.module, self.module.target_space_engine
        if space is None or self._hook is None or self._conversion is None:
            return
        what, optimizers = space.follow_model(), self.trainer.strategy.optimizers
        converted = self._conversion.found(replaced=what is not None)
        if what is None:
            trained = [s.optimizer for s in self._substitutions]
            if len(trained) != len(optimizers) or not all(map(is_, trained, optimizers)):
                what = "other optimizers"
            elif converted is None:
                return
        converted = converted if what is None else None
        say_changed(what, converted)
        states = self._leave()
        self._begun = True
        if (settings := optimized_only(module, module.target_space, optimizers)) is not None:
            with isolated(self.trainer):
                try:
                    again = self.construction.again(settings, space, converted)
                except NothingToSolve as error:
                    say_nothing_is_solved(error)
                    return
            self._train(again, None if converted is None else Restored(None, states))

    def _hand_over(self) -> None:
        """Go on in weight space where target space is over."""
        if self._hook is None or not self._handing_over.due:
            return
        self._leave()
        self._begun = self._handing_over.trained = True
        self.construction.forget()
        self._handing_over.give(partial(self._covers.own(self.trainer.strategy, "setup_optimizers"), self.trainer))
        self._handing_over.say_it_is_over()

    def _refresh(self) -> None:
        """Take another reference batch before an epoch where ``target_space.reference.refresh`` says so."""
        space, config = self.module.target_space_engine, self.module.target_space
        if space is None or config is None or config.reference.refresh is None:
            return
        epoch = self.trainer.current_epoch
        if epoch % config.reference.refresh or epoch == self.construction.epoch:
            return  # the latter where it resumes within this epoch
        with isolated(self.trainer):
            change = space.refresh(self.construction.drawn(epoch))
        targets = set(space.targets.values())
        for optimizer in self.trainer.strategy.optimizers:
            for target in targets.intersection(optimizer.state):
                del optimizer.state[target]
        rank_zero_info(
            f"Target space: a new reference batch in epoch {epoch}; largest change of any output on it {change:.3g}."
        )

    def _leave(self) -> list[dict[str, Any]]:
        """Go back to weight space in mid-fit, until training goes on; returns what :meth:`_give_back` does."""
        if self._hook is None:
            return []
        self._hook.detach()
        self._hook, self._begun, self.module.target_space_engine = None, False, None
        return self._give_back()

    def _give_back(self) -> list[dict[str, Any]]:
        """Put the weights back into optimizers; returns the states that the present ones had with targets."""
        states = {id(substitution.optimizer): substitution.state_dict() for substitution in self._substitutions}
        for substitution in self._substitutions:
            substitution.undo()
        self._substitutions = []
        return [states.get(id(optimizer), {}) for optimizer in self.trainer.strategy.optimizers]

    def _end(self) -> None:
        """Leave the fit, also one that failed; the weights hold the solved values."""
        teardown = self._covers.own(self.trainer.strategy, "teardown")
        if self._hook is not None and self.module.target_space_engine is not None:
            self._left = fingerprints(self.module.target_space_engine)
            self.construction.forget()
            self._hook.detach()
        failure = None if self._hook is None else self._hook.unseen_failure()
        self._hook, self._begun, self._constructed, self.fits = None, False, [], None
        self._covers.uncover()
        teardown()
        if failure is not None:
            raise failure
