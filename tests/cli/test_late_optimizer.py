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
