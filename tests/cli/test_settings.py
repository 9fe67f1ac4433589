"""The settings as they are printed and kept in a run's ``config.yaml``, from which it is repeated."""

import pytest
import yaml

from ts_lightning.cli.main import main
from ts_lightning.recipes.two_spirals import TwoSpirals

SPIRALS = ["--model=ts_lightning.recipes.two_spirals.TwoSpirals"]
TEXTS = ["--model=ts_lightning.recipes.lstm_nlp.TextClassifier", "--data=ts_lightning.data.TextDataModule"]


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
