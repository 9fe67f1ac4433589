"""What a checkpoint holds, who can load it, and what does not fit; between target space and weight space."""

import hashlib
from dataclasses import replace

import pytest
import torch

from tests.support.fits import assert_equal, trainer
from tests.support.resuming import (
    CONFIG,
    PlainText,
    Text,
    build,
    every_step,
    everything,
    fit,
    held_out,
    texts,
    with_reference,
)
from ts_lightning import TargetSpaceError


def test_the_file_is_tensors_and_built_in_types_and_is_left_as_it_was(tmp_path):
    fit(build(), callbacks=[every_step(tmp_path)])
    file = tmp_path / "step=5.ckpt"
    state = torch.load(file, weights_only=True)
    assert set(state["target_space"]["targets"]) == {"mix", "conv.0", "head.1", "head.4"}
    assert len(state["target_space"]["rows"]["conv.0"]) == 90
    before = file.read_bytes()
    fit(build(seed=7), ckpt_path=file)
    assert file.read_bytes() == before


def other_order(model):
    model.configure_optimizers = lambda: torch.optim.Adam(list(model.parameters())[::-1])
    return model


MISMATCHES = {
    "another reference size": (lambda: with_reference(build(), size=30), r"reference\.size=24; found 30"),
    "other rows": (
        lambda: with_reference(build(), rows=80),
        r"reference\.rows=90; found 80",
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
            self.started = everything(self.trainer)
            self.moments = dict(self.trainer.optimizers[0].state)

    model = Loaded.load_from_checkpoint(tmp_path / "last.ckpt")
    assert model.target_space_engine is None
    fit(model)
    assert model.moments == {}
    kept = [name for name in expected if not name.startswith("optimizer")]
    assert_equal({name: model.started[name] for name in kept}, {name: expected[name] for name in kept})


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
    assert_equal(plain.state_dict(), whole.lightning_module.state_dict())


def test_evaluation_needs_no_training_data(tmp_path):
    whole = fit(build())
    whole.save_checkpoint(tmp_path / "last.ckpt")
    # by a Trainer, too: PyTorch's inference mode may round otherwise
    expected = torch.cat(trainer(inference_mode=True).predict(whole.lightning_module, held_out()))
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
    assert_equal(targets(model), targets(whole.lightning_module))
