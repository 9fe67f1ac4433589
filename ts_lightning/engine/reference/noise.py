"""Which noise training has on a tensor that the reference pass has without it: that of dropout, followed to the layers.

Dropout of rate p multiplies every entry by 0 or 1 / (1 - p). Its noise has mean zero and p / (1 - p) times the mean
square of the entry, and is independent between entries; that number follows the tensor as its noise:

- the noise of one dropout behind another is (1 + first) (1 + second) - 1, and so is that of a product of two tensors;
- views, reshapes, indexing, maximum pooling, and elementwise functions of one tensor keep it, which is exact for views
  and for functions that scale with their input (relu), and the first order of others;
- means, sums and average pooling over n entries have an n-th of it, as for entries of one size;
- anything else (a sum of two tensors, a norm, another layer) ends it: the noise is left out there.

A module that the user keeps in eval mode has no dropout in training either.

Dropout of whole channels counts as dropout of their entries, which leaves out that these go together; dropout of
attention's weights is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ts_lightning.engine.reference.call_sites import calling_module
from ts_lightning.engine.running.batches import tensors_in

_LARGEST = 1e6  # of dropout of rate 1, which leaves nothing
_VIEWS = """
    view view_as reshape reshape_as flatten unflatten ravel squeeze unsqueeze transpose swapaxes swapdims permute
    movedim moveaxis t contiguous clone expand expand_as repeat tile narrow select index_select gather take_along_dim
    masked_select __getitem__ split chunk unbind tensor_split flip roll unfold pad to type type_as float double half
    bfloat16 pixel_shuffle pixel_unshuffle _pack_padded_sequence _pad_packed_sequence channel_shuffle
"""
_FUNCTIONS = """
    relu relu_ relu6 leaky_relu leaky_relu_ prelu rrelu elu elu_ selu selu_ celu gelu silu mish hardswish hardtanh
    hardsigmoid softplus softsign tanh tanh_ sigmoid sigmoid_ logsigmoid abs neg negative square sqrt clamp clamp_min
    clamp_max max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d amax
"""
_AVERAGES = "mean sum avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d"
_PRODUCTS = "mul mul_ multiply div div_ true_divide __mul__ __rmul__ __imul__ __truediv__ __itruediv__"


def _named(names: str) -> Iterator[Any]:
    """The functions of these names, wherever PyTorch has them."""
    for name in names.split():
        for space in (torch, Tensor, functional, torch._C._nn, torch._C._VariableFunctions):
            if hasattr(space, name):
                yield getattr(space, name)


def _kept(noise: float, given: Tensor, found: Tensor) -> float:
    return noise


def _averaged(noise: float, given: Tensor, found: Tensor) -> float:
    return noise * found.numel() / max(given.numel(), 1)


#: functional dropout, for which :meth:`Noise.dropout` stands in the pass
DROPOUTS = frozenset(
    _named(
        "dropout dropout_ dropout1d dropout2d dropout3d feature_dropout feature_dropout_ alpha_dropout alpha_dropout_ "
        "feature_alpha_dropout feature_alpha_dropout_"
    )
)
_OFF = (functional.alpha_dropout, functional.feature_alpha_dropout)  # unless they are told
_TRANSPOSED: tuple[Any, ...] = (Tensor.T, Tensor.mT)
_RULES: dict[Any, Callable[[float, Tensor, Tensor], float]] = {
    **dict.fromkeys(_named(_VIEWS + _FUNCTIONS), _kept),
    **dict.fromkeys((view.__get__ for view in _TRANSPOSED), _kept),
    **dict.fromkeys(_named(_AVERAGES), _averaged),
}
_PAIRS = frozenset(_named(_PRODUCTS))


class Noise:
    """The noise on the tensors of one reference pass.

    Attributes:
        frozen: modules that are in eval mode in training, too.
    """

    def __init__(self) -> None:
        self.frozen: Collection[nn.Module] = ()
        self._of: dict[int, tuple[Tensor, float]] = {}  # by id of the tensor, which this keeps

    def __call__(self, tensor: Tensor) -> float:
        """The noise on a tensor."""
        return self._of[id(tensor)][1] if id(tensor) in self._of else 0.0

    def follow(self, function: Any, args: Any, found: Any) -> None:
        """Take note of what a function made of noisy tensors."""
        if not self._of:
            return
        rule = _RULES.get(function)
        if rule is not None and args and isinstance(args[0], Tensor) and id(args[0]) in self._of:
            for tensor in tensors_in(found):
                self._put(tensor, rule(self(args[0]), args[0], tensor))
        elif function in _PAIRS and isinstance(found, Tensor):
            noise = 1.0
            for tensor in args[:2]:
                noise *= 1 + (self(tensor) if isinstance(tensor, Tensor) else 0.0)
            self._put(found, noise - 1)
        elif isinstance(found, Tensor):
            self._of.pop(id(found), None)  # of a sum in place

    def _put(self, tensor: Tensor, noise: float) -> None:
        if noise > 0:
            self._of[id(tensor)] = (tensor, noise)

    def dropout(self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """What stands for a call of functional dropout in the pass: the input, whose noise is noted."""
        input, p, training, inplace = _read(function, *args, **kwargs)
        if training or p == 0:  # drawn in the pass too, whatever the mode
            return function(*args, **kwargs)
        found: Tensor = input if inplace else input.view_as(input)  # since what is not dropped may be used as well
        if not self.frozen or calling_module() not in self.frozen:
            self._put(found, (1 + self(input)) * (1 + p / (1 - p) if p < 1 else _LARGEST) - 1)
        else:
            self._put(found, self(input))
        return found


def _read(
    function: Any,
    input: Tensor,
    p: float = 0.5,
    training: bool | None = None,
    inplace: bool = False,
    train: bool | None = None,
) -> tuple[Tensor, float, bool, bool]:
    """The input of a call of dropout, its rate, whether it drops and whether it writes to the input.

    The functions of ``torch.nn.functional`` call ``training`` what those of ``torch`` call ``train``.
    """
    training = train if training is None else training
    drops = function not in _OFF if training is None else training
    return input, p, drops, inplace or function.__name__.endswith("_")
