"""The settings as they are printed and kept in a run's ``config.yaml``, from which it is repeated."""

from collections.abc import Callable
from enum import Enum

import pytest
import torch
import yaml
from lightning.pytorch import Callback

from tests.cli.plain import Net
from tests.support.runs import done, program
from ts_lightning.cli import TargetSpaceCLI
from ts_lightning.cli.main import main
from ts_lightning.recipes.two_spirals import TwoSpirals

CPU = torch.device("cpu")
TEXT = """
model: tests.cli.test_settings.Odd
data: tests.cli.plain.Points
trainer: {accelerator: cpu, enable_progress_bar: false}
"""
SPIRALS = ["--model=ts_lightning.recipes.two_spirals.TwoSpirals"]
TEXTS = ["--model=ts_lightning.recipes.lstm_nlp.TextClassifier", "--data=ts_lightning.data.TextDataModule"]


class Color(Enum):
    RED = "r"


def printed(options, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["fit", *options, "--print_config"])
    assert caught.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], TwoSpirals.target_space.to_dict()),
        (["--target_space.init", "projected"], {**TwoSpirals.target_space.to_dict(), "init": "projected"}),
        (["--target_space", "null"], None),
    ],
    ids=["its own", "one changed", "weight space"],
)
def test_they_have_those_of_target_space_that_the_module_brings_along(options, expected, capsys):
    """They once had null, from which ``compare`` concluded that there was nothing to compare."""
    assert printed([*SPIRALS, *options], capsys)["target_space"] == expected


def test_a_tokenizer_is_kept_by_its_name(capsys):
    """It was once kept as 'Unable to serialize instance basic_english'."""
    assert printed([*TEXTS, "--data.split=basic_english"], capsys)["data"]["init_args"]["split"] == "basic_english"


class Odd(Net):
    """With defaults of kinds that a YAML has not."""

    def __init__(
        self,
        device: torch.device | str = CPU,
        dtype: torch.dtype = torch.float32,
        color: Color = Color.RED,
        activation: Callable = torch.relu,
        nameless: Callable = lambda x: x,
        several: list[Callable] = [lambda x: x],  # noqa: B006 (a list as a default is what is tried)
    ):
        super().__init__()
        self.given = str(device), dtype, color, activation, nameless(3), several[0](4)


CALLBACKS = {
    "a device": ["StochasticWeightAveraging", "--trainer.callbacks.swa_lrs", "0.01"],
    "a choice": ["Timer"],
    "a name": [
        "ModelPruning",
        "--trainer.callbacks.pruning_fn",
        "l1_unstructured",
        "--trainer.callbacks.amount",
        "0.3",
    ],
    "a nameless function": ["tests.cli.test_settings.Nameless"],
}


class Nameless(Callback):
    def __init__(self, call: Callable = lambda x: x):
        assert call(3) == 3


@pytest.mark.parametrize("options", CALLBACKS.values(), ids=CALLBACKS)
def test_defaults_that_a_yaml_has_not_are_read_back(options, tmp_path):
    """Timer ended the run with a traceback; the others a run that was repeated or resumed."""
    short = ["--trainer.accelerator", "cpu", "--trainer.max_epochs", "1"]
    fit = ["--model", "tests.cli.plain.Net", "--data", "tests.cli.plain.Points", *short]
    name, *more = options
    ended = done(main, "fit", *fit, f"--trainer.callbacks+={name}", *more, "--out", tmp_path / "a", drawn=False)
    assert "serialize" not in ended.err
    done(main, "fit", "--config", tmp_path / "a" / "config.yaml", "--out", tmp_path / "b", drawn=False)
    assert (tmp_path / "a" / "config.yaml").read_text() == (tmp_path / "b" / "config.yaml").read_text()


def test_a_modules_defaults_that_a_yaml_has_not_are_read_back(tmp_path):
    (tmp_path / "run.yaml").write_text(TEXT)
    read = {}
    for _ in range(2):
        made = TargetSpaceCLI(args=["fit", "--config", str(tmp_path / "run.yaml"), "--trainer.fast_dev_run", "true"])
        assert made.model.given == ("cpu", torch.float32, Color.RED, torch.relu, 3, 4)
        text = made.parser.subparsers()["fit"].dump(made.config.fit, skip_unset=False)
        assert yaml.safe_load(text) == (read or yaml.safe_load(text))
        read = yaml.safe_load(text)
        (tmp_path / "run.yaml").write_text(text)
    assert set(read["model"]["init_args"]) == {"device", "dtype", "color", "activation"}


def test_yaml_of_other_programs_is_as_it_was():
    """Choices were written by their values everywhere in the process."""
    with pytest.raises(yaml.representer.RepresenterError):
        yaml.safe_dump(Color.RED)


@pytest.mark.parametrize(("command", "epochs"), [("fit", 3), ("validate", 4)])
def test_those_of_the_command_are_taken_of_a_file_with_those_of_several(command, epochs, tmp_path, monkeypatch):
    """Also of one that is named in the environment, where the command is typed first and the others have no options."""
    file = tmp_path / "all.yaml"
    common = {"model": "tests.cli.plain.Net", "data": "tests.cli.plain.Points"}
    sections = {"fit": {**common, "trainer": {"max_epochs": 3}}, "validate": {**common, "trainer": {"max_epochs": 4}}}
    file.write_text(yaml.safe_dump(sections))
    before = program(main, "--config", file, command, "--print_config")
    monkeypatch.setenv("JSONARGPARSE_DEFAULT_ENV", "true")
    monkeypatch.setenv("PL_CONFIG", str(file))
    behind = program(main, command, "--print_config")
    for ended in (before, behind):
        assert ended.code == 0, str(ended)
        assert yaml.safe_load(ended.out)["trainer"]["max_epochs"] == epochs
