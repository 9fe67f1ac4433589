"""Modules in target space: settings on the class, and as an argument."""

from tests.cli.plain import Net
from ts_lightning import ReferenceConfig, TargetSpaceConfig, TargetSpaceMixin

OWN = TargetSpaceConfig(ridge=0.25, reference=ReferenceConfig(size=20))


class Solved(TargetSpaceMixin, Net):
    """With settings of its own."""

    target_space = OWN


class Failing(Solved):
    """Fails within its third epoch, of two steps each."""

    def training_step(self, batch, batch_idx):
        if self.global_step == 5:
            raise ArithmeticError("no further")
        return super().training_step(batch, batch_idx)


class Asked(TargetSpaceMixin, Net):
    """With settings as an argument."""

    def __init__(self, target_space: TargetSpaceConfig | None = OWN):
        super().__init__()
        self.save_hyperparameters()
        self.target_space = target_space
