"""The decision regions of a classifier of points in the plane, with the test points in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from ts_lightning.amount import amount
from ts_lightning.callbacks.pictures.predictions import Picture, class_names, percent
from ts_lightning.callbacks.pictures.style import COLOURS, INK, figure, plain
from ts_lightning.errors import TargetSpaceError

_PIXELS, _CHUNK = 400, 16_384
#: how far beyond the points the plane is drawn, as a share of their span
_MARGIN = 0.05
_MOST_POINTS = 2000


class DecisionRegions(Picture):
    """Draws ``decision_regions.png`` and ``.svg``: the predicted class over the plane, paler where it is less sure.

    For modules on points in the plane, x (batch, 2). Test points are drawn in the colour of their true class, at most
    2,000 of them; wrongly classified ones have a dark edge. With several processes, the points of the first one are
    drawn. See :class:`ts_lightning.callbacks.pictures.predictions.PredictionCallback`.

    Examples:
        >>> import torch
        >>> from lightning.pytorch import LightningModule, Trainer
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> from ts_lightning.pictures import DecisionRegions
        >>> class Ring(LightningModule):
        ...     def forward(self, x):
        ...         radius = x.norm(dim=1, keepdim=True)
        ...         return torch.cat([1 - radius, radius - 1], dim=1)
        ...
        ...     def test_step(self, batch, batch_idx):
        ...         pass
        >>> points = torch.randn(20, 2)
        >>> data = TensorDataset(points, (points.norm(dim=1) > 1).long())
        >>> trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[DecisionRegions()])
        >>> _ = trainer.test(Ring(), DataLoader(data, batch_size=4), verbose=False)
        >>> from pathlib import Path
        >>> Path("decision_regions.png").exists(), Path("decision_regions.svg").exists()
        (True, True)
    """

    name = "decision_regions"

    def start(self, trainer: Trainer) -> None:
        """Forget the points of an earlier pass over the data."""
        self._points = torch.empty(0, 2)
        self._classes = torch.empty(0, dtype=torch.int64)

    def add(self, x: Tensor, y: Tensor, logits: Tensor) -> None:
        """Keep the points of a batch, up to the number that is drawn."""
        if x.dim() != 2 or x.shape[1] != 2:
            raise TargetSpaceError(
                f"DecisionRegions found inputs x {tuple(x.shape)}; expected points in the plane, (batch, 2). Take the "
                f"callback out."
            )
        room = _MOST_POINTS - len(self._points)
        self._points = torch.cat([self._points, x[:room].float().cpu()])
        self._classes = torch.cat([self._classes, y[:room].cpu()])

    def draw(self, trainer: Trainer, pl_module: LightningModule, file_stem: Path) -> None:
        """Draw regions and points."""
        with figure(file_stem, "", [5.6], 5.2) as [panel]:
            right, classes = draw_regions(panel, pl_module, self._points, self._classes)
            share = percent(float(right.mean()))
            panel.set_title(f"decision regions, {amount(len(right), f'{self.split} point')}, {share} right")
            marks = _legend(class_names(trainer, pl_module, classes), bool(right.min() < 1))
            panel.legend(*marks, title="class", alignment="left", loc="upper left", bbox_to_anchor=(1.0, 1.01))


@torch.no_grad()
def draw_regions(panel: Any, model: nn.Module, points: Tensor, classes: Tensor) -> tuple[Tensor, int]:
    """Draw the regions of a classifier and points with their classes.

    Args:
        panel: the axes.
        model: from points (batch, 2) to logits (batch, classes), on any device.
        points: (N, 2).
        classes: (N,), the true class of each point.

    Returns:
        (N,) 1 for each point that is classified rightly and 0 for the others, and the number of classes.
    """
    low, high = points.min(dim=0).values, points.max(dim=0).values
    margin = _MARGIN * (high - low).clamp(min=1e-6)
    ends = torch.stack([low - margin, high + margin], dim=1).tolist()
    across, up = (torch.linspace(start, end, _PIXELS) for start, end in ends)
    logits = _evaluated(model, torch.cat([torch.cartesian_prod(across, up), points]))
    right = (logits[-len(points) :].argmax(dim=1) == classes).float()
    share = logits[: -len(points)].softmax(dim=1).reshape(_PIXELS, _PIXELS, -1).transpose(0, 1)
    top = share.topk(2, dim=2)
    number = share.shape[2]
    sure = (top.values[..., :1] - 1 / number) / (1 - 1 / number)
    colours = torch.tensor(_rgb(number))[top.indices[..., 0]]
    extent = (float(across[0]), float(across[-1]), float(up[0]), float(up[-1]))
    panel.imshow((1 - 0.65 * sure * (1 - colours)).numpy(), extent=extent, origin="lower", aspect="auto", zorder=0)
    for label in range(number - 1):
        others = torch.cat([share[..., :label], share[..., label + 1 :]], dim=2).amax(dim=2)
        margins = share[..., label] - others
        if margins.min() < 0 < margins.max():
            panel.contour(across.numpy(), up.numpy(), margins.numpy(), [0], colors="white", linewidths=1, zorder=1)
    for label in range(number):
        for correct, edge, width in ((1, "white", 0.5), (0, INK, 1.1)):
            chosen = points[(classes == label) & (right == correct)]
            colour = COLOURS[label % len(COLOURS)]
            panel.scatter(*chosen.T.numpy(), s=16, color=colour, edgecolor=edge, linewidth=width, zorder=3 - correct)
    panel.set(xlim=extent[:2], ylim=extent[2:], xticks=[], yticks=[], box_aspect=1)
    panel.spines[:].set_visible(False)
    return right, number


def _evaluated(model: nn.Module, points: Tensor) -> Tensor:
    """Logits in float32 on the CPU, computed in evaluation mode; each module's mode is restored."""
    like = next((p for p in model.parameters() if p.is_floating_point()), points)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        parts = [model(part.to(like)).float().cpu() for part in torch.split(points, _CHUNK)]
    finally:
        for module, mode in modes.items():
            module.training = mode
    return torch.cat(parts)


def _rgb(number: int) -> list[tuple[float, ...]]:
    from matplotlib.colors import to_rgb

    return [to_rgb(COLOURS[label % len(COLOURS)]) for label in range(number)]


def _legend(names: Sequence[str], wrong: bool) -> tuple[list[Any], list[str]]:
    """Marks and words of the legend: every class with a colour of its own, and wrongly classified points."""
    from matplotlib.lines import Line2D

    mark: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 6}
    shown = list(zip(names, COLOURS, strict=False))
    marks = [Line2D([], [], color=colour, markeredgecolor="white", **mark) for _, colour in shown]
    words = [plain(name, 14) for name, _ in shown]
    if wrong:
        marks.append(Line2D([], [], color="white", markeredgecolor=INK, markeredgewidth=1.1, **mark))
        words.append("wrong")
    return marks, words
