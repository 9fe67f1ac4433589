"""Checkpoints: training goes on bit for bit; between target space and weight space; what does not fit is refused."""

import hashlib
from collections import UserDict, namedtuple
from dataclasses import replace

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from tests.fits import trainer
from tests.resuming import (
    CONFIG,
    PlainText,
    Text,
    assert_same_bits,
    build,
    every_step,
    everything,
    fit,
    texts,
)
from ts_lightning import TargetSpaceError


def with_reference(model, **options):
    model.target_space = replace(CONFIG, reference=replace(CONFIG.reference, **options))
    return model


def held_out():
    return DataLoader(TensorDataset(*texts(20)), 10)


RUNS = {
    "adam": {},
    "lbfgs": {"optimizer": "lbfgs"},
    "double": {"dtype": torch.float64},
    "half": {"precision": "bf16-mixed"},
    "accumulated": {"accumulate_grad_batches": 2},
    "clipped": {"gradient_clip_val": 0.05},
    "refreshed": {"refresh": 1},
    "validated": {"val_check_interval": 2},
}


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS)
def test_resuming_at_any_step_gives_the_same_bits(options, tmp_path):
    options = dict(options)
    module = {name: options.pop(name) for name in ("optimizer", "dtype") if name in options}
    reference = {"refresh": options.pop("refresh"), "selection": "random"} if "refresh" in options else {}
    val = held_out() if "val_check_interval" in options else None
    # without a refresh, nothing is drawn any more: another seed must not matter
    seed = 0 if reference else 7

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
        assert_same_bits(everything(run), everything(whole))


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
        assert_same_bits(everything(run), everything(whole))


def test_the_same_module_goes_back_to_an_earlier_step(tmp_path):
    model = build()
    whole = fit(model, callbacks=[every_step(tmp_path)])
    expected = everything(whole)
    assert_same_bits(everything(fit(model, ckpt_path=tmp_path / "step=5.ckpt")), expected)


def test_the_file_is_tensors_and_built_in_types_and_is_left_as_it_was(tmp_path):
    fit(build(), callbacks=[every_step(tmp_path)])
    file = tmp_path / "step=5.ckpt"
    state = torch.load(file, weights_only=True)
    assert set(state["target_space"]["targets"]) == {"mix", "conv.0", "head.1", "head.4"}
    assert len(state["target_space"]["rows"]["conv.0"]) == 90
    before = file.read_bytes()
    fit(build(seed=7), ckpt_path=file)
    assert file.read_bytes() == before


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
    assert_same_bits(everything(run), everything(whole))
    assert {type(batch) for batch in passed} == {type(FORMS[form](*texts()))}
    assert torch.equal(passed[-1][0] if isinstance(passed[-1], tuple) else passed[-1]["tokens"], texts()[0][:24])


def other_order(model):
    model.configure_optimizers = lambda: torch.optim.Adam(list(model.parameters())[::-1])
    return model


MISMATCHES = {
    "another reference size": (lambda: with_reference(build(), size=30), r"reference\.size=24; found 30"),
    "other rows": (
        lambda: with_reference(build(), rows=80),
        r"'mix' has given targets of shape \(90, 4\); expected",
    ),
    "a layer less": (lambda: excluding("head.4"), r"with targets but not chosen: head\.4"),
    "other parameters": (
        lambda: other_order(build()),
        r"The checkpoint's optimizers train embedding\.weight, .*; found",
    ),
    "other shapes": (lambda: build(width=9), r"size mismatch for head\.1\.weight"),
}


def excluding(name):
    model = build()
    model.target_space = replace(CONFIG, exclude=[name])
    return model


@pytest.mark.parametrize(("make", "message"), MISMATCHES.values(), ids=MISMATCHES)
def test_what_does_not_fit_is_refused_before_the_first_step(make, message, tmp_path):
    fit(build(), callbacks=[every_step(tmp_path)])
    file = tmp_path / "step=5.ckpt"
    before = hashlib.sha256(file.read_bytes()).digest()
    model = make()
    error = RuntimeError if "size mismatch" in message else TargetSpaceError
    with pytest.raises(error, match=message):
        fit(model, ckpt_path=file)
    assert model.losses == []
    assert hashlib.sha256(file.read_bytes()).digest() == before
    fit(model)  # and nothing of it stays behind
    assert len(model.losses) == 12


class Starting:
    """Keeps what the model gives, and with which learning rate, when training starts."""

    def on_train_start(self):
        super().on_train_start()
        with torch.no_grad():
            self.started = self.eval()(texts()[0]).clone()
        self.train()
        self.rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.first = self.trainer.global_step


class StartingText(Starting, Text):
    pass


class StartingPlain(Starting, PlainText):
    pass


def outputs(cls, file):
    model = build(cls, seed=7)
    model.load_state_dict(torch.load(file, weights_only=True)["state_dict"])
    with torch.no_grad():
        return model.eval()(texts()[0])


def test_a_plain_checkpoint_starts_target_space_from_its_weights(tmp_path):
    plain = fit(build(PlainText), callbacks=[every_step(tmp_path)])
    model = with_reference(build(StartingText, seed=7), size=48, rows=288)
    run = fit(model, ckpt_path=tmp_path / "step=6.ckpt", max_epochs=4)
    torch.testing.assert_close(model.started, outputs(PlainText, tmp_path / "step=6.ckpt"), rtol=1e-3, atol=1e-4)
    assert (model.first, run.global_step, len(model.losses)) == (6, 16, 10)
    assert model.rate == pytest.approx(0.02 * 0.7**2)
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.02 * 0.7**5)
    assert plain.global_step == 12


@pytest.mark.parametrize("cls", [StartingText, StartingPlain])
def test_a_target_space_checkpoint_goes_on_in_weight_space(cls, tmp_path):
    fit(build(), callbacks=[every_step(tmp_path)])
    model = build(cls, seed=7)
    model.target_space = None
    if cls is StartingText:
        with pytest.warns(UserWarning, match="goes on in weight space from the checkpoint's weights"):
            run = fit(model, ckpt_path=tmp_path / "step=6.ckpt", max_epochs=4)
    else:
        run = fit(model, ckpt_path=tmp_path / "step=6.ckpt", max_epochs=4)
    assert torch.equal(model.started, outputs(Text, tmp_path / "step=6.ckpt"))
    assert (model.first, run.global_step, len(model.losses)) == (6, 16, 10)
    assert {id(p) for p in model.parameters()} == {id(p) for p in run.optimizers[0].param_groups[0]["params"]}
    assert model.rate == pytest.approx(0.02 * 0.7**2)
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.02 * 0.7**5)


def targets(model):
    return {name: target.detach().clone() for name, target in model.target_space_engine.targets.items()}


@pytest.mark.parametrize("weights_only", [False, True])
def test_a_loaded_module_goes_on_from_its_targets(weights_only, tmp_path):
    whole = fit(build())
    whole.save_checkpoint(tmp_path / "last.ckpt", weights_only=weights_only)
    expected = everything(whole)

    class Loaded(Text):
        def on_train_start(self):
            super().on_train_start()
            self.started = {**targets(self), **{n: v.clone() for n, v in self.state_dict().items()}}
            self.moments = dict(self.trainer.optimizers[0].state)

    model = Loaded.load_from_checkpoint(tmp_path / "last.ckpt")
    assert model.target_space_engine is None
    fit(model)
    assert model.moments == {}
    for name, value in model.started.items():
        assert torch.equal(value, expected.get(f"targets {name}", expected.get(f"model {name}"))), name


def test_a_group_of_parameters_that_came_later_is_kept(tmp_path):
    def finetune(model):
        model.head[4].requires_grad_(False)

        def configure():
            trained = [p for p in model.parameters() if p.requires_grad]
            return torch.optim.Adam(trained, lr=0.02)

        def unfreeze():
            if model.trainer.current_epoch == 0:
                model.trainer.optimizers[0].add_param_group({"params": model.head[4].parameters(), "lr": 0.5})
                model.head[4].requires_grad_(True)

        model.configure_optimizers, model.on_train_epoch_end = configure, unfreeze
        return model

    run = fit(finetune(build()))
    run.save_checkpoint(tmp_path / "last.ckpt")
    groups = torch.load(tmp_path / "last.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"]
    assert [(group["lr"], len(group["params"])) for group in groups] == [(0.02, 11), (0.5, 2)]


def test_a_trainer_that_did_not_fit_saves_the_targets_too(tmp_path):
    model = build()
    fit(model)
    run = trainer()
    run.test(model, held_out(), verbose=False)
    run.save_checkpoint(tmp_path / "last.ckpt")
    assert set(torch.load(tmp_path / "last.ckpt", weights_only=True)["target_space"]["targets"]) == set(targets(model))


def test_the_plain_class_loads_it(tmp_path):
    whole = fit(build())
    whole.save_checkpoint(tmp_path / "last.ckpt")
    plain = PlainText.load_from_checkpoint(tmp_path / "last.ckpt")
    assert_same_bits(plain.state_dict(), whole.lightning_module.state_dict())


def test_evaluation_needs_no_training_data(tmp_path):
    whole = fit(build())
    whole.save_checkpoint(tmp_path / "last.ckpt")
    with torch.no_grad():
        expected = whole.lightning_module.eval()(texts(20)[0])
    for loaded in (False, True):
        model = Text.load_from_checkpoint(tmp_path / "last.ckpt") if loaded else build(seed=7)
        path = None if loaded else tmp_path / "last.ckpt"
        run = trainer(inference_mode=True)
        assert torch.equal(torch.cat(run.predict(model, held_out(), ckpt_path=path)), expected)
        loss = run.test(model, held_out(), ckpt_path=path, verbose=False)
        assert loss == run.validate(model, held_out(), ckpt_path=path, verbose=False)
        assert model.target_space_engine is None
    # and fitting after it goes on from the targets that the checkpoint had
    model = build(seed=7)
    trainer().test(model, held_out(), ckpt_path=tmp_path / "last.ckpt", verbose=False)
    model.on_train_batch_start = lambda batch, batch_idx: -1
    fit(model, max_epochs=1)
    assert_same_bits(targets(model), targets(whole.lightning_module))


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
    assert_same_bits(everything(again), everything(whole))


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
    assert_same_bits(everything(run), everything(whole))
