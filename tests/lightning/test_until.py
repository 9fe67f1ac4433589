"""``until``: training goes on in weight space behind so many steps, from the solved weights, and can be resumed."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, StochasticWeightAveraging
from lightning.pytorch.loggers import CSVLogger

from tests.lightning.test_optimizers import Lookahead
from tests.support.fits import Lit, Plain, assert_equal, data, loader, trainer
from tests.support.fits import build as build_small
from tests.support.fits import fit as fit_small
from tests.support.manual import Manual, Two
from tests.support.resuming import PlainText, Resumable, Text, build, every_step, everything, fit
from ts_lightning import TargetSpace, TargetSpaceConfig, TargetSpaceError, TargetSpaceMonitor, convert

UNTIL = 5


def ending(model, until=UNTIL):
    model.target_space = replace(model.target_space, until=until)
    return model


def trained(optimizer):
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


class Seen(Callback):
    """Of every batch: whether there is a target space; and the weights at its start."""

    def __init__(self):
        self.spaces, self.weights = [], []

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        self.spaces.append(pl_module.target_space_engine is not None)
        self.weights.append(copy.deepcopy(pl_module.state_dict()))


def test_the_weights_go_on_from_the_last_solve_as_in_weight_space():
    seen = Seen()
    run = fit_small(ending(build_small()), callbacks=[seen])
    assert seen.spaces == [True] * UNTIL + [False] * (run.global_step - UNTIL)
    assert run.global_step == 8

    before = fit_small(build_small(), max_steps=UNTIL)
    assert_equal(seen.weights[UNTIL], before.lightning_module.state_dict())

    plain = build_small(Plain)
    plain.load_state_dict(seen.weights[UNTIL])
    optimizer = plain.configure_optimizers()
    batches = list(loader())
    for batch in [*batches, *batches][UNTIL:]:
        optimizer.zero_grad()
        plain.loss(batch).backward()
        optimizer.step()
    assert_equal(run.lightning_module.state_dict(), plain.state_dict())


def test_the_optimizer_and_its_schedule_go_on_with_the_weights():
    rates = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, *args):
            rates.append((id(trainer.optimizers[0]), trainer.optimizers[0].param_groups[0]["lr"]))

    run = fit(ending(build()), callbacks=[Watch()])
    ends, whole = [rate for _, rate in rates], rates[:]
    rates.clear()
    fit(build(), callbacks=[Watch()])
    assert ends == [rate for _, rate in rates]
    assert len({optimizer for optimizer, _ in whole}) == 1
    assert trained(run.optimizers[0]) == set(map(id, run.lightning_module.parameters()))
    assert set(map(id, run.optimizers[0].state)) == trained(run.optimizers[0])


class Handed(Text):
    """Weight space has an optimizer of its own, and a schedule that starts there."""

    def configure_weight_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5), "interval": "step"}]


def test_weight_space_can_have_optimizers_of_its_own():
    model = ending(build(Handed))
    asked = model.configure_optimizers
    run = fit(model)
    (optimizer,) = run.optimizers
    assert type(optimizer) is torch.optim.SGD
    assert optimizer.param_groups[0]["lr"] == 0.1 * 0.5 ** ((run.global_step - UNTIL) // 2)
    assert model.configure_optimizers == asked


def test_no_optimizers_of_its_own_are_an_empty_list_too():
    class Empty(Text):
        def configure_weight_optimizers(self):
            return []

    assert_equal(everything(fit(ending(build(Empty)))), everything(fit(ending(build()))))


@pytest.mark.parametrize("cls", [Text, Handed])
def test_resuming_at_any_step_gives_the_same_bits(cls, tmp_path):
    whole = fit(ending(build(cls)), callbacks=[every_step(tmp_path)])
    files = sorted(tmp_path.iterdir(), key=lambda path: int(path.stem.split("=")[1]))
    assert len(files) == whole.global_step > UNTIL + 3
    for file in files[2 : UNTIL + 3]:
        run = fit(ending(build(cls, seed=7)), ckpt_path=file)
        assert_equal(everything(run), everything(whole))
    states = [torch.load(file, weights_only=True) for file in files]
    assert ["target_space" in state for state in states] == [step <= UNTIL for step in range(1, len(files) + 1)]


def test_a_checkpoint_of_behind_loads_in_the_class_without_the_mixin(tmp_path):
    whole = fit(ending(build()), callbacks=[every_step(tmp_path)])
    resumed = fit(build(PlainText, seed=7), ckpt_path=tmp_path / "step=7.ckpt")
    assert_equal(resumed.lightning_module.state_dict(), whole.lightning_module.state_dict())


def test_weights_of_another_run_go_on_where_target_space_is_over(tmp_path):
    whole = fit(build(PlainText), callbacks=[every_step(tmp_path)])
    resumed = fit(ending(build(seed=7)), ckpt_path=tmp_path / "step=7.ckpt")
    assert_equal(everything(resumed), everything(whole))


def test_a_longer_run_of_the_same_trainer_stays_in_weight_space():
    model, run = ending(build(Handed)), trainer(max_epochs=2)
    run.fit(model, Resumable())
    assert model.target_space_engine is None
    run.fit_loop.max_epochs = 3
    run.fit(model, Resumable())
    assert model.target_space_engine is None
    assert type(run.optimizers[0]) is torch.optim.SGD


def test_the_next_trainer_begins_in_target_space():
    model = ending(build_small(), until=3)
    fit_small(model)
    weights = copy.deepcopy(model.state_dict())
    seen = Seen()
    fit_small(model, callbacks=[seen])
    assert seen.spaces == [True] * 3 + [False] * 5
    for name, value in weights.items():
        torch.testing.assert_close(seen.weights[0][name], value, rtol=0, atol=1e-5)


def test_accumulated_batches_count_as_one_step():
    seen = Seen()
    run = fit_small(ending(build_small(), until=2), callbacks=[seen], accumulate_grad_batches=2)
    assert run.global_step == 4
    assert seen.spaces == [True] * 2 + [False] * 2


@pytest.mark.parametrize("cls", [Manual, Two])
def test_optimisation_by_hand(cls):
    model = ending(build_small(cls), until=4)
    run = fit_small(model)
    assert run.global_step > 4
    assert model.target_space_engine is None
    assert set().union(*map(trained, run.optimizers)) == set(map(id, model.parameters()))
    assert all(loss > 0 for loss in model.losses)


def test_half_precision_and_clipping():
    model = ending(build_small(), until=3)
    fit_small(model, precision="bf16-mixed", gradient_clip_val=0.1)
    assert model.target_space_engine is None
    assert all(p.isfinite().all() for p in model.parameters())


def test_monitors_go_along(tmp_path):
    model = ending(build_small(), until=4)
    callbacks = [TargetSpaceMonitor(1), LearningRateMonitor("step")]
    fit_small(model, callbacks=callbacks, logger=CSVLogger(tmp_path), log_every_n_steps=1)
    assert model.target_space_engine is None
    assert callbacks[0]._observation is None


def test_a_converted_module_gives_its_own():
    class Own(Plain):
        def configure_weight_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    model = ending(convert(build_small(Own)), until=3)
    run = fit_small(model)
    assert type(run.optimizers[0]) is torch.optim.SGD


def test_what_ends_is_said(caplog):
    caplog.set_level("INFO", logger="lightning.pytorch.utilities.rank_zero")
    fit_small(ending(build_small(), until=3))
    assert caplog.text.count("Target space ended (until=3): from step 3 on, the weights are trained by Adam.") == 1


def test_a_loop_of_ones_own_is_refused():
    with pytest.raises(ValueError, match=r"space\.release\(\)"):
        TargetSpace(build_small(Plain), data()[0], TargetSpaceConfig(until=3))


@pytest.mark.parametrize("until", [0, -1, 2.5, True])
def test_settings_that_cannot_work(until):
    with pytest.raises((TypeError, ValueError), match="until"):
        TargetSpaceConfig(until=until)


def test_target_space_to_the_end_where_it_is_not_reached():
    model = ending(build_small(), until=100)
    fit_small(model)
    assert model.target_space_engine is not None


class HandedSmall(Lit):
    def configure_weight_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2)]


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: Lookahead(torch.optim.Adam(parameters, lr=0.02)),
        lambda parameters: torch.optim.LBFGS(parameters, lr=0.5, max_iter=2),
        lambda parameters: torch.optim.Adagrad(parameters, lr=0.1),
    ],
    ids=["lookahead", "lbfgs", "adagrad"],
)
def test_any_optimizer_goes_on_and_is_written(make, tmp_path):
    model = ending(build_small(optimizer=make), until=3)
    run = fit_small(model, callbacks=[every_step(tmp_path)], enable_checkpointing=True)
    assert run.global_step >= 8
    assert len(list(tmp_path.iterdir())) == 8
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_checkpoint_of_other_optimizers_is_refused_by_name(tmp_path):
    fit(ending(build(Handed)), callbacks=[every_step(tmp_path)])
    for until in (None, 50):
        with pytest.raises(TargetSpaceError, match=r"step 7.*configure_weight_optimizers.*the same until"):
            fit(ending(build(Handed), until), ckpt_path=tmp_path / "step=7.ckpt")


def test_callbacks_that_hold_on_to_optimizers_are_named_at_the_start():
    averaging = StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1)
    with pytest.warns(UserWarning, match="StochasticWeightAveraging with until=3 and configure_weight_optimizers"):
        fit_small(ending(build_small(HandedSmall), until=3), callbacks=[averaging])


def test_a_file_that_holds_no_step_is_resumed(tmp_path):
    run = fit_small(build_small(), max_epochs=1)
    state = {"state_dict": run.lightning_module.state_dict(), "optimizer_states": [], "lr_schedulers": []}
    state |= {"callbacks": {}, "epoch": 0, "pytorch-lightning_version": "2.0.0"}
    torch.save(state, tmp_path / "made.ckpt")
    fit_small(build_small(), ckpt_path=tmp_path / "made.ckpt", max_epochs=1)
