"""Networks of the workloads beside those of ``benchmarks/cases.py``."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class Sequence(nn.Module):
    """A recurrent layer, samples first, and a readout of its last steps.

    Args:
        cell: the recurrent layer's class.
        inputs: features of a step; with ``words`` those of an embedding.
        hidden: units.
        classes: of the readout.
        skipped: steps at the beginning at which nothing is asked; None asks at the last step alone.
        words: the size of a vocabulary, whose numbers are then the input.
    """

    def __init__(
        self,
        cell: type[nn.RNN] | type[nn.LSTM],
        inputs: int,
        hidden: int,
        classes: int,
        skipped: int | None = None,
        words: int | None = None,
    ) -> None:
        super().__init__()
        self.words = None if words is None else nn.Embedding(words, inputs)
        self.recurrent = cell(inputs, hidden, batch_first=True)
        self.readout = nn.Linear(hidden, classes)
        self.skipped = skipped

    def forward(self, x: Tensor) -> Tensor:
        """Logits (samples, classes, steps), or (samples, classes) of the last step."""
        states = self.recurrent(x if self.words is None else self.words(x))[0]
        if self.skipped is None:
            last: Tensor = self.readout(states[:, -1])
            return last
        every: Tensor = self.readout(states)
        return every[:, self.skipped :].transpose(1, 2)


class Residual(nn.Module):
    """Two convolutions with batch norm and a way around them; a projection where width or size change."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)])
        same = inputs == outputs and stride == 1
        self.around = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """A block's output."""
        inside = self.norms[0](self.first(x)).relu()
        out: Tensor = self.norms[1](self.second(inside)) + self.around(x)
        return out.relu()


def resnet(widths: tuple[int, ...] = (16, 32, 64), blocks: int = 1, stride: int = 1) -> nn.Module:
    """A small ResNet for images of three channels and ten classes; ``stride`` is that of the first convolution."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, widths[0], 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(widths[0]),
        nn.ReLU(),
    ]
    inputs = widths[0]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            layers.append(Residual(inputs, width, 2 if stage and not block else 1))
            inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


def strided_cnn() -> nn.Module:
    """Three convolutions of stride 2 for images of 28 x 28 in one channel, and ten classes."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 4 * 4, 10))


def dropped(build: Callable[[], nn.Module], rate: float, activation: type[nn.Module]) -> nn.Module:
    """The network of a sequence with dropout behind every activation."""
    layers: list[nn.Module] = []
    for layer in build().children():
        layers += [layer, nn.Dropout(rate)] if isinstance(layer, activation) else [layer]
    return nn.Sequential(*layers)
