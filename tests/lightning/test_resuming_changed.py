"""Training goes on bit for bit behind what was changed in it: layers frozen and thawed, and weights written."""

from dataclasses import replace

import pytest
import torch
from lightning.pytorch.callbacks import LearningRateFinder

from tests.support.changes import Change
from tests.support.fits import assert_equal
from tests.support.resuming import CONFIG, Changed, Text, build, every_step, everything, fit

CHANGES = {
    "table and norms written": Change(written=("embedding", "conv.1", "head.2"), behind=range(99)),
    "frozen": Change(frozen=("mix",), within=range(4, 99)),
    "frozen for a while": Change(frozen=("conv.0",), within=range(4, 8)),
    "frozen in part": Change(frozen=("head.1.bias",), within=range(4, 8)),
    "frozen for one step": Change(frozen=("mix", "head.1"), within=(5,)),
    "all frozen": Change(frozen=("mix", "conv.0", "head.1", "head.4"), within=(5, 6)),
    "table and norms frozen": Change(frozen=("embedding", "conv.1", "head.2"), within=range(4, 8)),
    "frozen from the start": Change(frozen=("mix",), within=range(5)),
    "table and norms frozen from the start": Change(frozen=("embedding", "conv.1", "head.2"), within=range(5)),
    "frozen for good": Change(frozen=("mix",), within=range(99)),
    "frozen twice": Change(frozen=("conv.0",), within=(0, 1, 2, 3, 7, 8)),
    "written": Change(written=("mix.weight",), behind=range(99)),
    "written once": Change(written=("head.1", "mix"), behind=(5,)),
    "written and frozen": Change(written=("mix",), behind=(5,), frozen=("mix", "head.1"), within=range(5, 8)),
    "frozen and written": Change(frozen=("mix",), within=range(4, 99), written=("mix", "head.1"), behind=(5, 6)),
}


def changed(name, untangle, seed=0):
    model = build(Changed, seed=seed, lr=0.005)
    model.target_space = replace(CONFIG, untangle=untangle)
    model.change = CHANGES[name]
    model.change.before(model, 0)
    return model


@pytest.mark.filterwarnings("ignore:.*(frozen|weight space|since the last optimizer step)")
@pytest.mark.parametrize("untangle", [1, 3])
@pytest.mark.parametrize("name", CHANGES)
def test_training_goes_on_behind_a_change(name, untangle, tmp_path):
    until = {"max_steps": 10}  # the last change is behind step 8
    whole = fit(changed(name, untangle), callbacks=[every_step(tmp_path)], **until)
    losses = whole.lightning_module.losses
    for step in (2, 3, 4, 5, 6, 8, 9) if untangle == 3 else (3, 4, 5, 6, 8):  # ahead, within and behind
        model = changed(name, untangle, seed=7)
        if step % 2:  # hooks freeze what is frozen later than the fit begins
            model.requires_grad_(True)
        run = fit(model, ckpt_path=tmp_path / f"step={step}.ckpt", **until)
        assert model.losses == losses[step:]
        # the targets of a held layer are of no matter: it is solved around its weights once it thaws
        kept = [{k: v for k, v in everything(each).items() if not k.startswith("targets")} for each in (run, whole)]
        assert_equal(*kept)


class InMidFit(LearningRateFinder):
    """Tries learning rates ahead of epoch 2, and goes back to where it began."""

    def on_fit_start(self, trainer, pl_module):
        pass

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 2:
            self.lr_find(trainer, pl_module)


def test_a_fit_goes_back_within_itself_behind_a_frozen_layer():
    found = []
    for callbacks in ([], [InMidFit(num_training_steps=3, update_attr=False)]):
        model = changed("frozen", 1)
        model.hparams.lr = model.lr = 0.005
        fit(model, callbacks=callbacks)
        found.append(model.state_dict())
    assert_equal(*found)


def checkpoint(model, folder):
    run = fit(model, max_steps=5, max_epochs=-1)
    run.save_checkpoint(folder / "kept.ckpt")
    return folder / "kept.ckpt"


@pytest.mark.parametrize("part", ["mix", "mix.bias", "conv.0", "head"])
def test_a_layer_that_is_frozen_where_a_fit_resumes_stays(part, tmp_path):
    first = build(Text)
    file = checkpoint(first, tmp_path)
    model = build(Text, seed=7)
    frozen = [name for name, _ in model.named_parameters() if name.startswith(part)]
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    fit(model, ckpt_path=file)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, first.get_parameter(n))}
    assert moved.isdisjoint(frozen)
    assert "embedding.weight" in moved


def test_a_layer_that_was_frozen_from_the_start_trains_in_weight_space_where_a_fit_resumes(tmp_path):
    first = build(Text)
    first.mix.requires_grad_(False)
    file = checkpoint(first, tmp_path)
    model = build(Text, seed=7)
    with pytest.warns(UserWarning, match=r"Trained from here on, in weight space: mix\.weight"):
        fit(model, ckpt_path=file)
    assert "mix" not in model.target_space_engine.targets
    assert not torch.equal(model.mix.weight, first.mix.weight)


def test_another_fit_goes_on_around_a_layer_that_was_frozen_since(recwarn):
    model = build(Text)
    fit(model)
    model.conv[0].requires_grad_(False)
    before = model.conv[0].weight.clone()
    fit(model)
    assert torch.equal(model.conv[0].weight, before)
    assert not [str(one.message) for one in recwarn if "Target space" in str(one.message)]


def test_another_fit_solves_what_thawed_in_the_last_one():
    model = changed("frozen from the start", 1)
    with pytest.warns(UserWarning, match="in weight space: mix"):
        fit(model)
    model.change = Change()
    with pytest.warns(UserWarning, match=r"without targets: mix.* Target space starts from the weights"):
        fit(model)
    assert "mix" in model.target_space_engine.targets


def test_another_fit_keeps_what_was_written_at_the_end_of_the_last_one():
    model = changed("written", 1)
    with pytest.warns(UserWarning, match="since the last optimizer step"):
        fit(model)
    before, begun = model.mix.weight.clone(), []
    model.on_train_start = lambda: begun.append(model.mix.weight.clone())
    fit(model, max_epochs=1)
    assert torch.equal(*begun, before)


def test_what_was_written_is_kept_by_a_checkpoint_from_behind_the_fit(tmp_path):
    whole = fit(changed("written", 3))
    run = fit(changed("written", 3), max_epochs=1)
    run.save_checkpoint(tmp_path / "kept.ckpt")
    with torch.no_grad():
        run.lightning_module.head[1].bias.add_(1.0)
    run.save_checkpoint(tmp_path / "other.ckpt")
    model = changed("written", 3, seed=7)
    fit(model, ckpt_path=tmp_path / "kept.ckpt")
    assert model.losses == whole.lightning_module.losses[4:]
    begun = []
    model.on_train_start = lambda: begun.append(model.head[1].bias.clone())
    fit(model, max_steps=5, ckpt_path=tmp_path / "other.ckpt")
    assert torch.equal(*begun, torch.load(tmp_path / "other.ckpt", weights_only=True)["state_dict"]["head.1.bias"])


class Remembering(torch.nn.Module):
    """A layer with an LSTM in front of it."""

    def __init__(self, layer):
        super().__init__()
        self.lstm = torch.nn.LSTM(layer.in_features, layer.in_features, batch_first=True)
        self.layer = layer

    def forward(self, x):
        return self.layer(self.lstm(x)[0])


@pytest.mark.parametrize("resumes", [True, False])
@pytest.mark.parametrize(
    "settings",
    [{"ridge": 7.0}, {"ridge_scale": "mean"}, {"method": "ocu"}, {"forget_bias": 2.0}, {"cascade_gradient": False}],
    ids=lambda settings: next(iter(settings)),
)
def test_settings_that_solve_otherwise_start_from_the_weights(settings, resumes, tmp_path, recwarn):
    config = replace(CONFIG, reference=replace(CONFIG.reference, rows="all"))

    class Seen(Text):
        target_space = config

        def __init__(self, **options):
            super().__init__(**options)
            if "forget_bias" in settings:
                self.mix = Remembering(self.mix)

        def on_train_batch_start(self, batch, batch_idx):
            self.first = getattr(self, "first", None) or {n: p.detach().clone() for n, p in self.named_parameters()}

    fit(build(Seen), callbacks=[every_step(tmp_path)])
    path = tmp_path / "step=5.ckpt"
    model = build(Seen, seed=7) if resumes else Seen.load_from_checkpoint(path)
    model.target_space = replace(config, **settings)
    recwarn.clear()
    fit(model, ckpt_path=path if resumes else None)
    weights = torch.load(path, weights_only=True)["state_dict"]
    for name, parameter in model.first.items():
        torch.testing.assert_close(parameter, weights[name], rtol=1e-4, atol=1e-5)
    ((name, found),) = settings.items()
    said = [str(one.message) for one in recwarn if "Target space starts from the weights" in str(one.message)]
    expected = f"The checkpoint was written with {name}={getattr(config, name)!r}; found {found!r}. "
    assert [one.startswith(expected) for one in said] == ([] if name == "cascade_gradient" else [True])


def test_settings_that_changed_between_loading_and_saving_are_no_settings_of_the_targets(tmp_path):
    run = fit(build(Text), callbacks=[every_step(tmp_path)])
    model = Text.load_from_checkpoint(tmp_path / "step=5.ckpt")
    model.target_space = replace(CONFIG, ridge=7.0)
    run.strategy.connect(model)
    run.save_checkpoint(tmp_path / "again.ckpt", weights_only=True)
    other = Text.load_from_checkpoint(tmp_path / "again.ckpt")
    assert other.target_space.ridge == 7.0
    with pytest.warns(UserWarning, match=r"The checkpoint was written with ridge=.*; found 7\.0\."):
        fit(other)


def test_a_forget_bias_is_of_no_matter_without_an_lstm(tmp_path, recwarn):
    whole = fit(build(Text), callbacks=[every_step(tmp_path)]).lightning_module
    model = build(Text, seed=7)
    model.target_space = replace(CONFIG, forget_bias=3.0)
    fit(model, ckpt_path=tmp_path / "step=5.ckpt")
    assert_equal(model.state_dict(), whole.state_dict())
    assert not [str(one.message) for one in recwarn if "Target space" in str(one.message)]
