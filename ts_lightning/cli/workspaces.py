"""The W&B workspaces for runs in target space: one looks into a single run, one compares weight with target space.

They are made with the wandb-workspaces package, from the names under which Lightning, the recipes, TargetSpaceMonitor
and the pictures log. Layers are found by regular expressions, so that one workspace serves every network.
"""

from __future__ import annotations

from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces.expr import Config

#: Lightning's x-axis; StepClock's two stand beside the test metrics
_STEP, _STEPS, _SECONDS = "trainer/global_step", "steps", "seconds"
_PICTURES = ("decision_regions", "sample_predictions", "confusion_matrix")


def workspaces(entity: str, project: str) -> list[ws.Workspace]:
    """The two workspaces, not saved yet.

    Args:
        entity: user or team that the project belongs to.
        project: the project that the runs are in.
    """
    # beyond its sections the app makes a panel for every other key: with it, one for each layer's histogram
    one = ws.Workspace(
        entity=entity, project=project, name="Target space: a run", sections=_of_a_run(), auto_generate_panels=True
    )
    both = ws.Workspace(
        entity=entity,
        project=project,
        name="Target space and weight space",
        sections=_of_both_spaces(),
        runset_settings=ws.RunsetSettings(groupby=[Config("space")]),
    )
    return [one, both]


def definition(workspace: ws.Workspace) -> dict[str, Any]:
    """A workspace as W&B stores it; ``wandb_workspaces.workspaces.internal.View`` reads it back."""
    view: dict[str, Any] = workspace._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)
    return view


def _of_a_run() -> list[Any]:
    """Sections for a single run."""
    return [
        _section("Accuracy and loss", _training("accuracy"), _training("loss", log_y=True)),
        _section(
            "Solves",
            _layers("residual", "residual of the solve"),
            _layers("condition", "condition number of the Gram matrix", log_y=True),
            _layers("rank", "rank of the reference activations"),
            _layers("ridge", "ridge constant", log_y=True),
        ),
        _section("Norms", _layers("target_norm", "norm of the targets"), _layers("weight_norm", "norm of the weights")),
        _section(
            "Gradients",
            _layers("target_gradient_norm", "gradient norm of the targets", log_y=True),
            _layers("weight_gradient_norm", "gradient norm of the weights", log_y=True),
        ),
        _section(
            "Share of the step",
            wr.LinePlot(
                title="share of a step's time",
                x=_STEP,
                y=[f"target_space/share/{part}" for part in ("solve", "main", "pullback")],
                range_y=(0, 1),
                plot_type="stacked-area",
            ),
        ),
        _section("Histograms", _layers("targets", "targets"), _layers("weights", "weights")),
        _section(
            "Pictures",
            *(wr.MediaBrowser(title=name.replace("_", " "), media_keys=[f"pictures/{name}"]) for name in _PICTURES),
            wr.WeavePanelSummaryTable(table_name="pictures/worst_texts"),
        ),
    ]


def _of_both_spaces() -> list[Any]:
    """Sections for many runs, which are grouped by ``space``: the mean of a group, and its smallest and largest."""
    return [
        _section("Against steps", *(_test(metric, _STEPS) for metric in ("accuracy", "loss"))),
        _section("Against seconds of training", *(_test(metric, _SECONDS) for metric in ("accuracy", "loss"))),
    ]


def _section(name: str, *panels: Any) -> Any:
    return ws.Section(name=name, panels=list(panels), is_open=True)


def _training(metric: str, **options: Any) -> Any:
    """A metric of training and test."""
    return wr.LinePlot(title=metric, x=_STEP, y=[f"train/{metric}", f"test/{metric}"], **options)


def _layers(quantity: str, title: str, **options: Any) -> Any:
    """What the monitor logs of every layer under ``target_space/<quantity>/<layer>``."""
    return wr.LinePlot(title=title, x=_STEP, metric_regex=f"^target_space/{quantity}/.*", **options)


def _test(metric: str, x: str) -> Any:
    """A metric of the test split."""
    options: dict[str, Any] = {"groupby_aggfunc": "mean", "groupby_rangefunc": "minmax", "log_y": metric == "loss"}
    return wr.LinePlot(title=f"test {metric}", x=x, title_x=x, y=[f"test/{metric}"], **options)
