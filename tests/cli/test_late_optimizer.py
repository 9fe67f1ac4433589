"""``--optimizer`` trains all that a module has by the time of a fit, as what it makes in ``setup``."""

import pytest
import torch
from lightning.pytorch.cli import instantiate_class
from torch import nn

from tests.cli.plain import Net
from tests.support.runs import done, mistake
from ts_lightning import TargetAdam
from ts_lightning.cli import TargetSpaceCLI
from ts_lightning.cli.main import main


class Seen(Net):
    """Writes down what the optimizer trained."""

    groups = ()

    def on_train_end(self):
        optimizer = self.trainer.optimizers[0]
        Seen.groups = (type(optimizer), sum(p.numel() for group in optimizer.param_groups for p in group["params"]))


class InSetup(Seen):
    """Makes its layers when the data is known."""

    def __init__(self, width: int = 8, lr: float = 0.02):
        super().__init__(width, lr)
        self.layers, self.net = self.net, None

    def __setattr__(self, name, value):
        if name == "layers":
            object.__setattr__(self, name, [value])  # which no module knows of
        else:
            super().__setattr__(name, value)

    def setup(self, stage):
        self.net = self.layers[0]


class InConfigureModel(Seen):
    """Makes the first of its layers when the strategy asks for it."""

    def __init__(self, width: int = 8, lr: float = 0.02):
        super().__init__(width, lr)
        self.net[0] = nn.Identity()
        self.width = width

    def configure_model(self):
        if isinstance(self.net[0], nn.Identity):
            self.net[0] = nn.Linear(3, self.width)


def arguments(kind, tmp_path):
    module = ["--model", f"{__name__}.{kind}", "--data", "tests.cli.plain.Points"]
    return ["fit", *module, "--trainer.max_steps", "2", "--trainer.accelerator", "cpu", "--out", tmp_path / "run"]


@pytest.mark.parametrize("space", [[], ["--target_space", "{}"]])
@pytest.mark.parametrize("kind", ["Seen", "InSetup", "InConfigureModel"])
def test_all_that_there_is_when_the_fit_begins(kind, space, tmp_path):
    Seen.groups = ()
    done(main, *arguments(kind, tmp_path), *space, "--optimizer", "TargetAdam", "--optimizer.lr", "0.01", drawn=False)
    weights = 3 * 8 + 8 + 8 * 2 + 2
    assert Seen.groups == (TargetAdam, 64 * (8 + 2) if space else weights)  # targets of 64 reference samples


@pytest.mark.parametrize("schedule", ["StepLR", "ReduceLROnPlateau"])
def test_with_a_schedule(schedule, tmp_path):
    options = {
        "StepLR": ["--lr_scheduler.step_size", "1"],
        "ReduceLROnPlateau": ["--lr_scheduler.monitor", "test/loss"],
    }
    given = ["--optimizer", "SGD", "--optimizer.lr", "0.1", "--lr_scheduler", schedule, *options[schedule]]
    done(main, *arguments("InSetup", tmp_path), *given, drawn=False)
    assert Seen.groups[0] is torch.optim.SGD


@pytest.mark.parametrize("kind", ["Seen", "InSetup"])
def test_numbers_that_it_refuses(kind, tmp_path):
    said = mistake(main, *arguments(kind, tmp_path), "--optimizer", "SGD", "--optimizer.lr", "-1")
    assert "The optimizer cannot be made: Invalid learning rate: -1" in said
    assert not (tmp_path / "run").exists()


def test_that_it_takes_the_place_of_the_modules_own_is_said(tmp_path):
    ended = done(main, *arguments("InSetup", tmp_path), "--optimizer", "SGD", "--optimizer.lr", "0.1", drawn=False)
    assert "--optimizer is used in the place of InSetup.configure_optimizers." in ended.err


class Given(Seen):
    """Makes its optimizer of an argument."""

    def __init__(self, width: int = 8, lr: float = 0.02, made: dict | None = None):
        super().__init__(width, lr)
        self.made = made

    def configure_optimizers(self):
        return instantiate_class(self.net[0].parameters(), self.made)


class Linked(TargetSpaceCLI):
    """Gives the module what is said of the optimizer."""

    def add_arguments_to_parser(self, parser):
        super().add_arguments_to_parser(parser)
        parser.add_optimizer_args((torch.optim.SGD, torch.optim.Adam), link_to="model.made")


@pytest.mark.parametrize("automatic", [True, False])
def test_one_that_is_linked_to_the_module_is_the_modules_to_make(automatic, tmp_path):
    """It was made in the module's place, of all parameters."""
    args = [*map(str, arguments("Given", tmp_path)), "--optimizer", "SGD", "--optimizer.lr", "0.1"]
    del args[1:3]  # the class is Linked's
    Linked(Given, args=args, auto_configure_optimizers=automatic)
    assert Seen.groups == (torch.optim.SGD, 3 * 8 + 8)


def test_a_schedule_without_an_optimizer_is_refused(tmp_path):
    given = ["--lr_scheduler", "StepLR", "--lr_scheduler.step_size", "1"]
    said = mistake(main, *arguments("Seen", tmp_path), *given)
    assert "StepLR: found no --optimizer, whose rate it is to change. Expected one beside it" in said
    assert not (tmp_path / "run").exists()


def test_a_command_that_trains_nothing_says_nothing_of_it(tmp_path):
    module = ["--model", f"{__name__}.Seen", "--data", "tests.cli.plain.Points", "--optimizer", "SGD"]
    assert "--optimizer" not in done(main, "validate", *module, "--trainer.accelerator", "cpu", drawn=False).err


SPACES = {"target": ["--target_space", "{}"], "weight": ["--target_space", "null"]}


@pytest.fixture(scope="module", params=SPACES)
def written(request, tmp_path_factory):
    """The folders of two steps by optimizers of several kinds, in one space."""
    folder = tmp_path_factory.mktemp("written")
    for kind in ("SGD", "Adam", "Adagrad", "TargetAdam"):
        given = [*SPACES[request.param], "--optimizer", kind, "--optimizer.lr", "0.01"]
        done(main, *arguments("Seen", folder / kind), *given, drawn=False)
    return {path.name: path / "run" for path in folder.iterdir()}


def resumed(run, tmp_path, *options):
    """What a fit says that goes on for two steps, and the rate that it ends with."""
    given = ["--config", run / "config.yaml", "--ckpt_path", run / "last.ckpt", "--trainer.max_steps", "4"]
    said = done(main, "fit", *given, *options, "--out", tmp_path / "on", drawn=False).err
    [state] = torch.load(tmp_path / "on" / "last.ckpt", weights_only=True)["optimizer_states"]
    return said, state["param_groups"][0]["lr"]


@pytest.mark.parametrize("new", ["SGD", "Adam", "Adagrad"])
@pytest.mark.parametrize("old", ["SGD", "Adam", "Adagrad", "TargetAdam"])
def test_another_kind_than_the_checkpoints_starts_anew(old, new, written, tmp_path):
    said, lr = resumed(written[old], tmp_path, "--optimizer", new, "--optimizer.lr", "0.03")
    if old == new or (old, new) == ("TargetAdam", "Adam"):  # which has the same settings
        assert "the settings of its optimizer are used, and not those of --optimizer: lr 0.01 in place of 0.03." in said
        assert lr == 0.01
    else:
        assert (
            f"--ckpt_path: its optimizer is another than {new} of --optimizer, which starts anew with its own" in said
        )
        assert "in place of 0.03" not in said
        assert lr == 0.03


def test_the_same_settings_are_not_spoken_of(written, tmp_path):
    said, _ = resumed(written["TargetAdam"], tmp_path)
    assert "its optimizer" not in said


def test_settings_that_a_schedule_changes_are_not_spoken_of(written, tmp_path):
    cycle = ["OneCycleLR", "--lr_scheduler.max_lr", "0.1", "--lr_scheduler.total_steps", "20"]
    given = ["--lr_scheduler", *cycle, "--trainer.max_epochs", "3", "--trainer.limit_train_batches", "1"]
    config = written["Adam"] / "config.yaml"
    first = tmp_path / "first"
    done(main, "fit", "--config", config, *given, "--trainer.max_steps", "2", "--out", first, drawn=False)
    said, _ = resumed(first, tmp_path)
    assert "its optimizer" not in said


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("new", ["SGD", "Adam"])
def test_a_search_for_the_rate_says_it_no_second_time(new, written, tmp_path):
    """It restores a state as well, with the checkpoint's rate or with one that it has found."""
    finder = ["--trainer.callbacks+=LearningRateFinder", "--trainer.callbacks.num_training_steps", "4"]
    given = ["--optimizer", new, "--optimizer.lr", "0.03", "--trainer.enable_checkpointing", "true"]
    said, _ = resumed(written["SGD"], tmp_path, *given, *finder)
    assert said.count("of --optimizer") <= 1, said
