"""The dashboard: its definition holds every panel and is read back; mistakes are said in one line."""

import json
import re
import sys

import pytest

from ts_lightning.cli.dashboard import main
from ts_lightning.errors import TargetSpaceError

PLACE = ["--entity", "someone", "--project", "spirals"]


@pytest.fixture
def dry_run(tmp_path, monkeypatch):
    """The definition of both workspaces, as it is on file."""
    wandb = pytest.importorskip("wandb")
    pytest.importorskip("wandb_workspaces")
    monkeypatch.setattr(wandb, "Api", None)  # no network, no login
    file = tmp_path / "definition.json"
    main([*PLACE, "--dry-run", str(file)])
    return json.loads(file.read_text())


def panels(view):
    return {
        section["name"]: [panel["config"] for panel in section["panels"]]
        for section in view["spec"]["section"]["panelBankConfig"]["sections"]
    }


def test_a_run_has_every_quantity_of_the_monitor(dry_run):
    one, _ = dry_run
    assert (one["entity"], one["project"]) == ("someone", "spirals")
    found = panels(one)
    regexes = {panel["metricRegex"] for section in found.values() for panel in section if "metricRegex" in panel}
    quantities = {"residual", "condition", "rank", "ridge", "targets", "weights"}
    quantities |= {f"{kind}_{norm}" for kind in ("target", "weight") for norm in ("norm", "gradient_norm")}
    for quantity in quantities:
        key = f"target_space/{quantity}/net.0"
        assert sum(re.fullmatch(regex, key) is not None for regex in regexes) == 1, key
    assert len(regexes) == len(quantities)
    assert [panel["metrics"] for panel in found["Accuracy and loss"]] == [
        ["train/accuracy", "test/accuracy"],
        ["train/loss", "test/loss"],
    ]
    (shares,) = found["Share of the step"]
    assert shares["metrics"] == [f"target_space/share/{part}" for part in ("solve", "main", "pullback")]
    media = [panel["mediaKeys"] for panel in found["Pictures"] if "mediaKeys" in panel]
    assert media == [["pictures/decision_regions"], ["pictures/sample_predictions"], ["pictures/confusion_matrix"]]
    assert "pictures/worst_texts" in json.dumps(found["Pictures"])


def test_both_spaces_are_compared_against_steps_and_seconds(dry_run):
    _, both = dry_run
    drawn = {(panel["xAxis"], *panel["metrics"]) for section in panels(both).values() for panel in section}
    metrics = ("test/accuracy", "test/loss")
    assert drawn == {(x, metric) for x in ("steps", "seconds") for metric in metrics}
    (runs,) = both["spec"]["section"]["runSets"]
    assert runs["grouping"] == [{"section": "config", "name": "space.value"}]


def test_the_definition_is_read_back(dry_run):
    from wandb_workspaces.workspaces import Workspace, internal

    for view in dry_run:
        read = Workspace._from_model(internal.View.model_validate(view))
        assert read.name == view["displayName"]
        assert [section.name for section in read.sections] == list(panels(view))
        assert read._to_model().model_dump(mode="json", by_alias=True, exclude_none=True) == view


def test_both_workspaces_are_saved(monkeypatch):
    workspaces = pytest.importorskip("wandb_workspaces.workspaces")
    saved = []
    monkeypatch.setattr(workspaces.Workspace, "save", lambda self: saved.append(self.name))
    main(PLACE)
    assert saved == ["Target space: a run", "Target space and weight space"]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("UsageError", "not logged in to W&B (no key): run wandb login"),
        ("CommError", "someone/spirals (no key): check"),
    ],
)
def test_what_goes_wrong_in_saving_is_said_in_one_line(kind, message, monkeypatch):
    wandb = pytest.importorskip("wandb")
    workspaces = pytest.importorskip("wandb_workspaces.workspaces")

    def save(self):
        raise getattr(wandb.errors, kind)("no key\nand more")

    monkeypatch.setattr(workspaces.Workspace, "save", save)
    with pytest.raises(TargetSpaceError, match=re.escape(message)) as caught:
        main(PLACE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["wandb", "wandb_workspaces"])
def test_a_missing_package_says_what_to_install(name, monkeypatch):
    for module in list(sys.modules):
        if module.split(".")[0] == "wandb_workspaces" or module == "ts_lightning.cli.workspaces":
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(TargetSpaceError, match=re.escape('pip install "ts-lightning[wandb]"')):
        main(PLACE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--entity", "", "--project", "b"], "--entity: found ''; expected a name"),
        (["--entity", "a", "--project", "a/b"], "--project: found 'a/b'; expected a name"),
        ([*PLACE, "--dry-run", "nowhere/definition.json"], "--dry-run 'nowhere/definition.json': cannot be written"),
    ],
)
def test_a_mistake_is_said(options, message):
    pytest.importorskip("wandb_workspaces")
    with pytest.raises(TargetSpaceError, match=message):
        main(options)


@pytest.mark.parametrize("option", ["entity", "project"])
def test_entity_and_project_are_needed(option, capsys):
    given = PLACE[2:] if option == "entity" else PLACE[:2]
    with pytest.raises(SystemExit) as caught:
        main(given)
    assert caught.value.code == 2
    assert option in capsys.readouterr().err
