"""Training goes on bit for bit: from every step, with any reference batch, by the callbacks' own names."""

import warnings
from collections import UserDict, namedtuple

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from tests.support.fits import assert_equal
from tests.support.resuming import Text, build, every_step, everything, fit, held_out, texts, with_reference

#: two epochs, in the place of three where each has few steps, or begins with another reference batch
TWO = {"max_epochs": 2}
RUNS = {
    "adam": TWO,
    "lbfgs": {"optimizer": "lbfgs", **TWO},
    "target adam": {"optimizer": "target adam", **TWO},
    "adafactor": {"optimizer": "adafactor", **TWO},
    "preconditioned": {"optimizer": "preconditioned", **TWO},
    "adaptive": {"optimizer": "adaptive"},
    "adaptive, refreshed": {"optimizer": "adaptive", "selection": "random", "refresh": 1},
    "double": {"dtype": torch.float64, **TWO},
    "half": {"precision": "bf16-mixed", **TWO},
    "accumulated": {"accumulate_grad_batches": 2},
    "clipped": {"gradient_clip_val": 0.05, **TWO},
    "drawn": {"selection": "random", **TWO},
    "refreshed": {"selection": "random", "refresh": 1},
    "validated": {"val_check_interval": 2, **TWO},
}


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS)
def test_resuming_at_any_step_gives_the_same_bits(options, tmp_path):
    options = dict(options)
    module = {name: options.pop(name) for name in ("optimizer", "dtype") if name in options}
    reference = {name: options.pop(name) for name in ("selection", "refresh") if name in options}
    val = held_out() if "val_check_interval" in options else None
    # without a refresh, nothing is drawn any more: another seed must not matter
    seed = 0 if "refresh" in reference else 7

    whole = fit(with_reference(build(**module), **reference), val=val, callbacks=[every_step(tmp_path)], **options)
    losses = whole.lightning_module.losses
    files = sorted(tmp_path.iterdir())
    assert len(files) == whole.global_step > 5
    for file in files:
        model = with_reference(build(seed=seed, **module), **reference)
        torch.manual_seed(seed)
        run = fit(model, val=val, ckpt_path=file, **options)
        assert run.global_step == whole.global_step
        assert model.losses == losses[len(losses) - len(model.losses) :]
        assert_equal(everything(run), everything(whole))


@pytest.mark.parametrize("target_space", [Text.target_space, None])
def test_a_run_of_adam_goes_on_with_target_adam(target_space, tmp_path):
    def module(optimizer):
        model = build(optimizer=optimizer)
        model.target_space = target_space
        return model

    fit(module("adam"), max_epochs=2, callbacks=[every_step(tmp_path)])
    model = module("target adam")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run = fit(model, ckpt_path=tmp_path / "step=5.ckpt")
    moments = sum("the state of another optimizer" in str(one.message) for one in said)
    assert moments == (target_space is not None)
    assert run.global_step > 6
    (optimizer,) = run.optimizers
    assert optimizer.param_groups[0]["momentum"] == 0.5


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_a_run_of_target_adam_goes_on_with_another_optimizer(kind, tmp_path):
    class Other(Text):
        def configure_optimizers(self):
            return kind(self.parameters(), lr=0.001)

    fit(build(optimizer="target adam"), max_epochs=2, callbacks=[every_step(tmp_path)])
    model = build(Other)
    with pytest.warns(UserWarning, match=f"{kind.__name__} was given the state of TargetAdam. .* of 4 layers'"):
        run = fit(model, ckpt_path=tmp_path / "step=5.ckpt")
    assert run.global_step > 6
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_a_new_reference_batch_is_taken_once_in_an_epoch(tmp_path):
    class Counted(Text):
        taken = 0

        def reference_batch(self):
            self.taken += 1
            return super().reference_batch()

    def taken(**options):
        model = with_reference(build(Counted), refresh=1, selection="random")
        fit(model, **options)
        return model.taken

    assert taken(callbacks=[every_step(tmp_path)]) == 3
    assert [taken(ckpt_path=tmp_path / f"step={step}.ckpt") for step in (3, 4, 6, 9)] == [2, 2, 1, 0]


@pytest.mark.parametrize("when", ["on_train_epoch_end", "on_validation_end"])
def test_resuming_at_the_end_of_an_epoch_gives_the_same_bits(when, tmp_path):
    monitor = {"monitor": "val_loss"} if when == "on_validation_end" else {}
    kept = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, **monitor)
    whole = fit(build(), val=held_out(), callbacks=[kept])
    for epoch in range(2):
        run = fit(build(seed=7), val=held_out(), ckpt_path=tmp_path / f"epoch={epoch}.ckpt")
        assert_equal(everything(run), everything(whole))


def test_the_same_module_goes_back_to_an_earlier_step(tmp_path):
    model = build()
    whole = fit(model, callbacks=[every_step(tmp_path)])
    expected = everything(whole)
    assert_equal(everything(fit(model, ckpt_path=tmp_path / "step=5.ckpt")), expected)


Pair = namedtuple("Pair", ["tokens", "label"])


class Encoding(UserDict):
    """A mapping that is no dictionary, as tokenizers give."""


FORMS = {
    "tuple": lambda x, y: (x, y),
    "named tuple": Pair,
    "dictionary": lambda x, y: {"tokens": x, "more": {"label": y, "text": ["a"] * len(x)}},
    "mapping": lambda x, y: Encoding({"tokens": x, "label": y}),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_reference_batch_of_any_form_survives(form, tmp_path):
    passed = []

    class Formed(Text):
        def reference_batch(self):
            x, y = texts()
            return FORMS[form](x[:24], y[:24])

        def reference_forward(self, batch):
            passed.append(batch)
            return self(batch[0] if isinstance(batch, tuple) else batch["tokens"])

    whole = fit(build(Formed), callbacks=[every_step(tmp_path)])
    passed.clear()
    run = fit(build(Formed, seed=7), ckpt_path=tmp_path / "step=6.ckpt")
    assert_equal(everything(run), everything(whole))
    assert {type(batch) for batch in passed} == {type(FORMS[form](*texts()))}
    assert torch.equal(passed[-1][0] if isinstance(passed[-1], tuple) else passed[-1]["tokens"], texts()[0][:24])


def test_the_best_and_the_last_checkpoint_are_found_again(tmp_path):
    callbacks = [
        ModelCheckpoint(tmp_path, "best-{step}", monitor="val_loss", save_top_k=1),
        ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=3, save_last=True),
    ]
    model = build()
    run = fit(model, val=held_out(), callbacks=callbacks)
    loss = run.validate(model, held_out(), ckpt_path="best", verbose=False)[0]["val_loss"]
    assert loss == pytest.approx(float(callbacks[0].best_model_score))
    whole = fit(build(), val=held_out(), max_epochs=4)
    callbacks = [ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=3, save_last=True)]
    again = fit(build(seed=7), val=held_out(), callbacks=callbacks, ckpt_path="last", max_epochs=4)
    assert len(again.lightning_module.losses) == 4
    assert_equal(everything(again), everything(whole))


def test_early_stopping_goes_on_counting(tmp_path):
    class Worsening(Text):
        def validation_step(self, batch, batch_idx):
            self.log("val_loss", float(abs(self.current_epoch - 2)))

    def stopping():
        return EarlyStopping("val_loss", patience=4)

    whole = fit(build(Worsening), val=held_out(), callbacks=[stopping(), every_step(tmp_path)], max_epochs=20)
    assert whole.current_epoch == 7
    run = fit(
        build(Worsening, seed=7),
        val=held_out(),
        callbacks=[stopping()],
        ckpt_path=tmp_path / "step=18.ckpt",
        max_epochs=20,
    )
    assert run.current_epoch == 7
    assert_equal(everything(run), everything(whole))
