"""Checkpoints in the hands of users: hooks of their own, settings, edited weights, going back, batches of any class."""

import dataclasses

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.core.saving import load_hparams_from_yaml, save_hparams_to_yaml
from lightning.pytorch.loggers import CSVLogger

from tests.support.fits import CONFIG, Lit, Plain, assert_equal, build, data, fit
from ts_lightning import ReferenceConfig, TargetSpace, TargetSpaceConfig, TargetSpaceError, TargetSpaceMixin


class Silent(Lit):
    """Overrides both hooks without super(), as is usual."""

    def on_save_checkpoint(self, checkpoint):
        checkpoint["vocabulary"] = ["a"]

    def on_load_checkpoint(self, checkpoint):
        self.vocabulary = checkpoint["vocabulary"]


class SilentBase(Plain):
    """Overridden in the class that the mixin is added to."""

    on_save_checkpoint, on_load_checkpoint = Silent.on_save_checkpoint, Silent.on_load_checkpoint


class Mixed(TargetSpaceMixin, SilentBase):
    target_space = CONFIG


class Heir(Silent):
    def on_load_checkpoint(self, checkpoint):
        super().on_load_checkpoint(checkpoint)


@pytest.mark.parametrize("kind", [Silent, Mixed, Heir])
def test_hooks_without_super_lose_nothing(kind, tmp_path):
    file = tmp_path / "half.ckpt"
    fit(build(kind), max_epochs=2).save_checkpoint(file)
    model, whole = build(kind, seed=5), build(kind)
    fit(model, max_epochs=4, ckpt_path=file)
    fit(whole, max_epochs=4)
    assert model.vocabulary == ["a"]
    assert_equal(model, whole)
    assert_equal(model.target_space_engine.targets, whole.target_space_engine.targets)


class WithSettings(Lit):
    def __init__(self, target_space=CONFIG):
        super().__init__()
        self.save_hyperparameters()
        self.target_space = target_space


def test_settings_among_the_hyperparameters_load_by_default(tmp_path):
    settings = TargetSpaceConfig(ridge=0.5, reference=ReferenceConfig(size=20, rows="all"))
    fit(WithSettings(settings)).save_checkpoint(tmp_path / "last.ckpt")
    assert WithSettings.load_from_checkpoint(tmp_path / "last.ckpt").target_space == settings


@pytest.mark.parametrize("settings", [TargetSpaceConfig(ridge=0.5, layers=["net.0"]), ReferenceConfig(size=20), None])
def test_settings_among_the_hyperparameters_are_read_from_the_file_of_a_logger(settings, tmp_path):
    """It held Python objects, which yaml does not make."""
    save_hparams_to_yaml(tmp_path / "hparams.yaml", {"space": settings, "width": 8})
    assert load_hparams_from_yaml(tmp_path / "hparams.yaml") == {"space": settings, "width": 8}


def test_a_checkpoint_loads_with_the_hyperparameters_that_a_logger_wrote(tmp_path):
    settings = TargetSpaceConfig(ridge=0.5, reference=ReferenceConfig(size=20, rows="all"))
    fit(WithSettings(settings), logger=CSVLogger(tmp_path)).save_checkpoint(tmp_path / "last.ckpt")
    (file,) = tmp_path.rglob("hparams.yaml")
    assert WithSettings.load_from_checkpoint(tmp_path / "last.ckpt", hparams_file=file).target_space == settings


@pytest.mark.parametrize("change", [1.015, 1 + 1e-6])
@pytest.mark.parametrize("how", ["resumed", "loaded"])
def test_edited_weights_are_noticed(change, how, tmp_path):
    file = tmp_path / "last.ckpt"
    fit(build()).save_checkpoint(file)
    state = torch.load(file, weights_only=True)
    state["state_dict"]["net.2.weight"][0] *= change
    torch.save(state, file)
    expected = build(Plain)
    expected.load_state_dict(state["state_dict"])
    started = []

    class Watched(Lit):
        def on_train_start(self):
            started.append(self(data()[0]).detach())

    model = Watched.load_from_checkpoint(file) if how == "loaded" else build(Watched)
    with pytest.warns(UserWarning, match=r"weights net\.2\.weight are not those that the targets were solved to"):
        fit(model, max_epochs=3, ckpt_path=file if how == "resumed" else None)
    torch.testing.assert_close(started[0], expected(data()[0]).detach(), rtol=1e-5, atol=1e-6)


def test_a_new_head_starts_from_the_weights(tmp_path):
    fit(build()).save_checkpoint(tmp_path / "last.ckpt")

    class NewHead(Lit):
        def __init__(self):
            super().__init__()
            self.net[4] = torch.nn.Linear(8, 5)

        def on_load_checkpoint(self, checkpoint):
            for name in ("net.4.weight", "net.4.bias"):
                del checkpoint["state_dict"][name]

    model = NewHead.load_from_checkpoint(tmp_path / "last.ckpt", strict=False)
    body = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]["net.2.weight"]
    model.on_train_start = lambda: torch.testing.assert_close(model.net[2].weight.detach(), body)
    fit(model)
    assert model.target_space_engine.targets["net.4"].shape[-1] == 5


class GoesBack(Callback):
    """To the state of step 2, twice, in the way of ``how``."""

    def __init__(self, how, file):
        self.how, self.file, self.left = how, file, 2

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 2 and self.left == 2:
            trainer.save_checkpoint(self.file)
            self.expected = {n: t.detach().clone() for n, t in pl_module.target_space_engine.targets.items()}
        if trainer.global_step in (4, 6) and self.left:
            self.left -= 1
            checkpoint = torch.load(self.file, weights_only=True)
            if self.how == "connector":
                pl_module.on_load_checkpoint(checkpoint)
                trainer.strategy.load_model_state_dict(checkpoint)
            trainer.strategy.load_optimizer_state_dict(checkpoint)


@pytest.mark.parametrize("how", ["connector", "optimizer alone"])
def test_a_callback_goes_back_within_a_fit(how, tmp_path):
    back = GoesBack(how, tmp_path / "two.ckpt")
    seen = []

    class Watched(Lit):
        def training_step(self, batch, batch_idx):
            steps = {float(s["step"]) for s in self.trainer.optimizers[0].state.values()}
            seen.append((steps, {n: t.detach().clone() for n, t in self.target_space_engine.targets.items()}))
            return super().training_step(batch, batch_idx)

    model = build(Watched, optimizer=lambda p: torch.optim.Adam(p, lr=0.02))
    fit(model, callbacks=[back], max_epochs=2)
    assert seen[4][0] == seen[6][0] == {2.0}  # the moments of step 2
    if how == "connector":
        assert_equal(seen[4][1], back.expected)
        assert_equal(seen[6][1], back.expected)


@dataclasses.dataclass
class Samples:
    x: torch.Tensor
    y: torch.Tensor

    def to(self, device, non_blocking=False):
        return Samples(self.x.to(device), self.y.to(device))


class OwnBatch(Lit):
    size = 32

    def reference_batch(self):
        x, y = data()
        return Samples(x[: self.size].clone(), y[: self.size])

    def reference_forward(self, batch):
        return self(batch.x)


@pytest.mark.parametrize("how", ["resumed", "loaded"])
def test_a_reference_batch_of_a_class_of_its_own_is_taken_anew(how, tmp_path):
    file = tmp_path / "half.ckpt"
    run = fit(build(OwnBatch, optimizer=lambda p: torch.optim.SGD(p, lr=0.1)), max_epochs=2)
    run.save_checkpoint(file)
    assert torch.load(file, weights_only=True)["target_space"]["reference"] is None
    whole = build(OwnBatch, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    fit(whole, max_epochs=4)
    model = OwnBatch.load_from_checkpoint(file) if how == "loaded" else build(OwnBatch, seed=3)
    model.make = whole.make
    fit(model, max_epochs=4 if how == "resumed" else 2, ckpt_path=file if how == "resumed" else None)
    assert_equal(model, whole)


def test_another_batch_of_such_a_class_is_noticed(tmp_path):
    file = tmp_path / "half.ckpt"
    fit(build(OwnBatch)).save_checkpoint(file)

    class Other(OwnBatch):
        def reference_batch(self):
            batch = super().reference_batch()
            return Samples(batch.x + 1, batch.y)

    expected = torch.load(file, weights_only=True)["state_dict"]
    model = build(Other)
    model.on_train_start = lambda: torch.testing.assert_close(model.net[2].weight.detach(), expected["net.2.weight"])
    with pytest.warns(UserWarning, match="another reference batch than the targets are of"):
        fit(model, max_epochs=3, ckpt_path=file)


def _space(size=32, rows=None, width=8):
    torch.manual_seed(0)
    config = TargetSpaceConfig() if rows is None else TargetSpaceConfig(reference=ReferenceConfig(rows=rows))
    return TargetSpace(build(Plain, width=width), data()[0][:size], config)


OTHERS = {
    "other samples": (lambda: TargetSpace(build(Plain), data()[0][32:64]), "other samples than this reference batch"),
    "other layers": (lambda: TargetSpace(torch.nn.Linear(3, 2), data()[0][:32]), "it has targets of net.0"),
    "other widths": (lambda: _space(width=7), r"layer 'net\.0' has targets \(32, 8\) in it; expected \(32, 7\)"),
    "fewer samples": (lambda: _space(size=30), r"layer 'net\.0' has targets \(32, 8\) in it; expected \(30, 8\)"),
}


@pytest.mark.parametrize(("make", "message"), OTHERS.values(), ids=OTHERS)
def test_the_state_of_another_target_space_is_refused(make, message):
    state = _space().state_dict()
    with pytest.raises(TargetSpaceError, match=message):
        make().load_state_dict(state)


def test_what_was_loaded_and_not_trained_is_saved_again(tmp_path):
    """A fit that is over already, and an evaluation, hand the targets on."""
    first, second = tmp_path / "first.ckpt", tmp_path / "second.ckpt"
    run = fit(build(), max_epochs=2)
    run.save_checkpoint(first)
    again = fit(build(seed=7), max_epochs=2, ckpt_path=first)
    again.save_checkpoint(second)
    one, two = (torch.load(file, weights_only=True) for file in (first, second))
    assert_equal(two["target_space"]["targets"], one["target_space"]["targets"])
    assert two["optimizer_states"][0]["target_space"]["moments"].keys()
    model, whole = build(seed=3), build()
    fit(model, max_epochs=4, ckpt_path=second)
    fit(whole, max_epochs=4)
    assert_equal(model, whole)
