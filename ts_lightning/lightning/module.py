"""What a session needs of its module: the settings, the engine, and the reference batch with its forward."""

from __future__ import annotations

from functools import partialmethod
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule

from ts_lightning.config import TargetSpaceConfig
from ts_lightning.engine.space import TargetSpace  # noqa: F401 (for the type of an attribute)
from ts_lightning.errors import TargetSpaceError, instead

#: what a class may define for target space, with the mixin or before it has that
OVERRIDABLE = ("reference_batch", "reference_forward", "configure_weight_optimizers")


def gives(module: LightningModule, method: str) -> bool:
    """Whether a module has a method of its own beside the mixin's, in front of it or behind."""
    return sum(method in vars(holder) for holder in (module, *type(module).__mro__)) > 1


def refuse_other_uses(module: LightningModule) -> None:
    """Refuse a module that keeps something of its own under a name that target space has.

    Raises:
        TargetSpaceError: it does, as a tensor ``reference_batch`` of samples to draw, or a layer ``target_space``.
    """
    registered = {**module._parameters, **module._buffers, **module._modules}
    for name in ("target_space", *OVERRIDABLE):
        if name in registered:
            others = [registered[name]]
        elif name == "target_space":  # of the settings there is a check of their own
            others = []
        else:
            given = [vars(holder)[name] for holder in (module, *type(module).__mro__) if name in vars(holder)]
            others = [one for one in given if not (callable(one) or isinstance(one, (classmethod, partialmethod)))]
        if others:
            raise _other_use(module, name, others[0])


def _other_use(module: LightningModule, name: str, found: Any) -> TargetSpaceError:
    """The error of a module that keeps something of its own under a name of target space's."""
    has = "a method" if name in OVERRIDABLE else "the engine" if name == "target_space_engine" else "settings"
    return TargetSpaceError(
        f"{type(module).__name__}.{name}: found {instead(found)}, where target space has {has}. Give what the module "
        f"keeps there another name."
    )


class TargetSpaceModule(LightningModule):
    """A LightningModule in target space, as sessions see it; :class:`TargetSpaceMixin` is the one for users.

    Attributes:
        target_space: the settings; ``None`` trains in weight space.
        target_space_engine: the :class:`TargetSpace` from the start of a fit on; ``None`` before.
    """

    # in comments, since TorchScript reads a class's annotations and refuses these
    target_space = TargetSpaceConfig()  # type: TargetSpaceConfig | None
    target_space_engine = None  # type: TargetSpace | None

    def register_buffer(self, name: str, tensor: Any, persistent: bool = True) -> None:
        """As in PyTorch."""
        self._refuse(name, tensor)
        super().register_buffer(name, tensor, persistent)

    def register_parameter(self, name: str, param: Any) -> None:
        """As in PyTorch."""
        self._refuse(name, param)
        super().register_parameter(name, param)

    def add_module(self, name: str, module: Any) -> None:
        """As in PyTorch."""
        self._refuse(name, module)
        super().add_module(name, module)

    def _refuse(self, name: str, given: Any) -> None:
        """Refuse a name of target space's, of which PyTorch says that it exists already."""
        if name in (*OVERRIDABLE, "target_space", "target_space_engine"):
            raise _other_use(self, name, given)

    if TYPE_CHECKING:  # a class written without the mixin may have methods of these names behind this one

        def reference_batch(self) -> Any:
            """The batch on which targets are defined."""

        def reference_forward(self, batch: Any) -> Any:
            """Run the model on the reference batch."""

        def configure_weight_optimizers(self) -> Any:
            """The optimizers in weight space, where the present ones do not go on."""
