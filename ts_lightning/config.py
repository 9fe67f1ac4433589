"""Every choice a user can make, checked when it is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from ts_lightning.checks import built_in, check_choice, check_count, check_finite, check_patterns, check_positive

RidgeScaleName = Literal["absolute", "variance", "mean", "feature"]
Method = Literal["scu", "ocu"]
Init = Literal["auto", "projected", "normalised", "weights"]
Selection = Literal["first", "random", "balanced"]
SolveDtype = Literal["auto", "float32", "float64"]
Size = int | Literal["auto"]
Rows = int | Literal["auto", "all"]
StepScale = float | Literal["auto"]
Ridge = float | Literal["auto"]
Untangle = int | Literal["auto"]

#: names of all ridge scales; ``register_ridge_scale`` adds to them
ridge_scales: list[str] = list(get_args(RidgeScaleName))


def check_ridge_scale(name: str, value: object) -> str:
    """The name of a ridge scale; raise ValueError if ``value`` is none."""
    if not isinstance(value, str) or value not in ridge_scales:
        raise ValueError(
            f"{name}={value!r}: expected one of {', '.join(map(repr, ridge_scales))}, or a name that was given to "
            f"ts_lightning.register_ridge_scale before."
        )
    return str(built_in(value))


@dataclass(frozen=True)
class ReferenceConfig:
    """Which samples the targets are defined on.

    Args:
        size: number of training samples in the reference batch. ``"auto"``: 200 for a model of ``nn.Linear`` layers,
            and 100 for one with convolutions, recurrent layers or attention, which see many places of every sample.
        selection: ``"first"`` of the training data, a ``"random"`` sample, or a ``"balanced"`` random sample with
            the same number of every class (labels are then the last element of each training sample).
        rows: how many rows of A each layer is solved from, out of the reference batch's (a row is one place where the
            layer is applied: a sample and position for a convolution, a sample and step for a recurrent layer or a
            Linear on sequences).
            ``"all"`` keeps every row; a number keeps a fixed random sample of that many; ``"auto"`` keeps
            ``max(512, inputs of the layer)`` rows of a convolution, ``max(2048, 32 x inputs)`` of a recurrent layer
            (whose inputs are x, h and 1) and of a Linear on sequences (samples and steps in dimensions of their own:
            those of steps that were packed or flattened are all kept), and all rows of other layers. A recurrent
            layer keeps samples whole: all rows of as many as have that number, and with ``"auto"`` of 16 at least. The
            tables behind this default are in ``docs/defaults.md``.
        refresh: take new samples after every so many epochs, chosen at random; the targets are then replaced by those
            that reproduce the weights on them, and the optimizer's moments of targets start anew. ``None``: never.
        shard: where several processes train together, give each its share of the samples and targets, so that memory
            and work per process fall. ``False``: each has all of them.

    Raises:
        TypeError: a setting of another type.
        ValueError: a setting that cannot work; the text says what was found and what was expected.

    Examples:
        >>> from ts_lightning import ReferenceConfig, TargetSpaceConfig
        >>> TargetSpaceConfig(reference=ReferenceConfig(size=200, selection="balanced")).reference.size
        200
        >>> ReferenceConfig(selection="last")
        Traceback (most recent call last):
            ...
        ValueError: reference.selection='last': expected one of 'first', 'random', 'balanced'.
    """

    size: Size = "auto"
    selection: Selection = "first"
    rows: Rows = "auto"
    refresh: int | None = None
    shard: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot work; what can is kept in built-in types."""
        _keep(
            self,
            size=check_count("reference.size ('auto' or a number)", self.size, "auto"),
            selection=check_choice("reference.selection", self.selection, get_args(Selection)),
            rows=check_count("reference.rows ('auto', 'all' or a number)", self.rows, "auto", "all"),
            shard=check_choice("reference.shard", self.shard, (False, True)),
            refresh=check_count("reference.refresh (None or a number of epochs)", self.refresh, None),
        )
        if self.refresh is not None and self.selection == "first":
            raise ValueError(
                "reference.refresh takes new samples, and selection='first' always takes the same. Use "
                "selection='random' or 'balanced'."
            )


@dataclass(frozen=True)
class TargetSpaceConfig:
    """How a model is trained in target space.

    The defaults were chosen from the measurements in ``docs/defaults.md``; :meth:`paper` gives the settings of
    Fairbank et al. (2022).

    Args:
        layers: names or globs of the layers to solve (``["encoder.*"]``); ``None`` takes every supported layer.
        exclude: names or globs of layers to leave in weight space.
        ridge: the ridge constant, in the unit that ``ridge_scale`` says. ``"auto"``: 1, and where a layer is solved
            from a sample of its rows 0.5 for a convolution (times rows over inputs where these are fewer, unless
            ``cascade_gradient=False``), and for a recurrent layer or a Linear on sequences the share of the rows. Where
            ``ridge_scale`` grows with the rows, as ``"mean"`` and ``"feature"`` do, 0.5 and 1.
        ridge_scale: ``"absolute"``: the ridge is ``ridge`` itself (the paper's). ``"variance"``: ``ridge`` times the
            total variance of the layer's inputs, which is ridge d / N times the mean eigenvalue of their Gram matrix
            about the mean (N rows, d inputs): weak where many rows determine few weights. ``"mean"``: ``ridge`` times
            the mean of diag(A'A). ``"feature"``: ``ridge`` times diag(A'A), a ridge of its own for every input. Or a
            name that was given to :func:`register_ridge_scale`.
        method: ``"scu"`` passes on what each solved layer really produces on the reference batch (sequential
            cascade untangling); ``"ocu"`` passes on its targets (optimistic; paper, section 3.3).
        init: ``"auto"``: ``"weights"`` for layers whose weights were loaded into a LightningModule or are none of a
            fresh start (trained, zero, biases of one's own; a random draw of any usual kind is fresh), and
            ``"normalised"`` for the others. ``"projected"``: targets start at random and are replaced by what the
            solved layer achieves. ``"normalised"``: the outputs of orthogonal layers, rescaled to the standard
            deviation ``init_std`` layer by layer, and to a tenth of it in the last layer.
            ``"weights"``: the model's present weights, around which the layers are solved.
        init_std: standard deviation of the initial targets (pre-activation units), and for a recurrent layer of what
            its inputs contribute to them. ``None``: of normalised layers 0.6, and 0.05 for recurrent layers,
            whose states then remember; of projected ones 1, and 0.1 for convolutions (the paper's).
        forget_bias: added to the forget gate of an nn.LSTM with biases after the solve, so that targets around zero
            remember. It becomes part of the layer's bias.
        step_scale: the unit that targets are trained in, which makes up for targets being larger than weights: a
            learning rate that suits weights then suits targets (Adam around 0.002). An optimizer's step moves a
            target ``step_scale`` times as far with Adam, and ``step_scale**2`` times with plain gradient descent.
            ``"auto"`` is 50 / L^(1/4) for L solved layers, whose steps add up, and a tenth of it where there are
            recurrent ones, whose steps add up along time; three times that for a convolution that is solved from a
            sample of its rows, of whose steps the ridge takes more, and for a Linear on sequences beside recurrent
            layers, whose own do not add up.
        untangle: how often a solve goes through the reference batch. ``1``: every time. A larger number ``k``: every
            ``k``-th time; between, each layer's inputs on the reference batch are those of the last time, so that its
            weights are one product with its targets, and gradients take the way back of that time. ``"auto"`` chooses
            the number between 1 and 16 while training, by how far the weights jump: ``docs/cost.md``.
        cascade_gradient: whether gradients pass through the inputs of later layers. Targets decide the weights of their
            own layer, by its solve, and through what this layer passes on those of all later ones. ``False`` leaves the
            latter share out: a solve takes its layer's inputs as constants. With ``untangle="auto"`` the training of a
            network of few dense layers then takes about half the time; norms and embeddings have no share from the
            reference batch. ``docs/cost.md`` says where accuracy suffers, and where it does not.
        until: optimizer steps, as ``Trainer.global_step`` counts them, after which training goes on in weight space,
            from the weights that the targets gave last; ``None``: never. The weights then stand in the optimizers
            again, with fresh moments, or in those of ``configure_weight_optimizers``. ``docs/choosing.md`` says where
            that pays.
        reference: the reference batch, see :class:`ReferenceConfig`.
        solve_dtype: precision of the Gram matrix and its factorisation. ``"auto"``: at least float32, and float64
            where float32 cannot hold the Gram matrix (many rows, whose inputs vary little about a large mean).
        cuda_graphs: where one process trains on one GPU, record the solve and the pull-back once and replay them at
            every step. The forward on the reference batch must do the same at every step: Python numbers in it
            (an annealed factor) and tensors that are no parameters or buffers are those of the recording, and hooks
            are not repeated. What cannot be recorded goes on without, with a warning. Elsewhere the
            setting changes nothing.

    Raises:
        TypeError: a setting of another type.
        ValueError: a setting that cannot work; the text says what was found and what was expected.

    Examples:
        >>> from ts_lightning import TargetSpaceConfig
        >>> config = TargetSpaceConfig(exclude=["head"], ridge=0.5)
        >>> config.ridge_scale
        'variance'
        >>> TargetSpaceConfig.from_dict(config.to_dict()) == config
        True
        >>> TargetSpaceConfig.paper().ridge_scale
        'absolute'
        >>> TargetSpaceConfig(ridge=-1)
        Traceback (most recent call last):
            ...
        ValueError: ridge ('auto' or a number)=-1: expected a finite number above 0.
    """

    layers: Sequence[str] | None = None
    exclude: Sequence[str] = ()
    ridge: Ridge = "auto"
    ridge_scale: RidgeScaleName | str = "variance"
    method: Method = "scu"
    init: Init = "auto"
    init_std: float | None = None
    forget_bias: float = 1.0
    step_scale: StepScale = "auto"
    untangle: Untangle = 1
    cascade_gradient: bool = True
    until: int | None = None
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    solve_dtype: SolveDtype = "auto"
    cuda_graphs: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot work; what can is kept in built-in types, so that equal settings are equal."""
        _keep(
            self,
            layers=None if self.layers is None else check_patterns("layers", self.layers),
            exclude=check_patterns("exclude", self.exclude),
            ridge=check_positive("ridge ('auto' or a number)", self.ridge, "auto"),
            ridge_scale=check_ridge_scale("ridge_scale", self.ridge_scale),
            method=check_choice("method", self.method, get_args(Method)),
            init=check_choice("init", self.init, get_args(Init)),
            init_std=check_positive("init_std", self.init_std, None),
            forget_bias=check_finite("forget_bias", self.forget_bias),
            step_scale=check_positive("step_scale ('auto' or a number)", self.step_scale, "auto"),
            untangle=check_count("untangle ('auto' or a number)", self.untangle, "auto"),
            until=check_count("until (None or a number of optimizer steps)", self.until, None),
            solve_dtype=check_choice("solve_dtype", self.solve_dtype, get_args(SolveDtype)),
            cascade_gradient=check_choice("cascade_gradient", self.cascade_gradient, (False, True)),
            cuda_graphs=check_choice("cuda_graphs", self.cuda_graphs, (False, True)),
        )
        if self.cuda_graphs and self.untangle != 1:
            raise ValueError(
                f"cuda_graphs=True records solves that all untangle; found untangle={self.untangle!r}. Use untangle=1, "
                f"or cuda_graphs=False."
            )
        if self.cuda_graphs and not self.cascade_gradient:
            raise ValueError(
                "cuda_graphs=True records solves whose gradients pass through all layers; found "
                "cascade_gradient=False. Use cascade_gradient=True, or cuda_graphs=False."
            )
        if not isinstance(self.reference, ReferenceConfig):
            raise TypeError(f"reference: expected a ReferenceConfig, found {type(self.reference).__name__}.")
        if self.method == "ocu" and isinstance(self.reference.rows, int):
            raise ValueError(
                f"method='ocu' passes each layer's targets on, so it needs targets at all rows; found "
                f"reference.rows={self.reference.rows}. Use rows='all', or method='scu'."
            )

    @classmethod
    def paper(cls, ridge: float = 0.1, **changes: Any) -> TargetSpaceConfig:
        """The paper's form: absolute ridge, projected start, all rows of the first 100 samples, no step scale.

        Args:
            ridge: the absolute ridge constant (0.001 for two spirals, 0.1 elsewhere in the paper).
            changes: any other field of the config.
        """
        settings: dict[str, Any] = {
            "ridge_scale": "absolute",
            "init": "projected",
            "step_scale": 1.0,
            "reference": ReferenceConfig(size=100, rows="all"),
        }
        return cls(ridge=ridge, **{**settings, **changes})

    @classmethod
    def checked(cls, given: TargetSpaceConfig | None, where: str) -> TargetSpaceConfig | None:
        """The settings as they were given, or None, wherever a user hands them on.

        Args:
            given: what stands where settings are expected.
            where: what it was given to, for the error.

        Raises:
            TypeError: it is something else, as a dictionary.
        """
        if given is not None and not isinstance(given, cls):
            hint = ", as in TargetSpaceConfig(**settings)" if isinstance(given, Mapping) else ""
            raise TypeError(f"{where}: expected a TargetSpaceConfig or None, found {given!r}{hint}.")
        return given

    def to_dict(self) -> dict[str, Any]:
        """All settings in built-in types, for a checkpoint or a file."""
        settings = asdict(self)
        layers = None if self.layers is None else list(self.layers)
        return {**settings, "layers": layers, "exclude": list(self.exclude)}

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> TargetSpaceConfig:
        """The settings that :meth:`to_dict` gave; what is left out has its default.

        Raises:
            TypeError: a setting of another type, or one that there is not.
            ValueError: a setting that cannot work.
        """
        if not isinstance(settings, Mapping):
            raise TypeError(f"from_dict: expected a mapping of settings, found {type(settings).__name__}.")
        reference = settings.get("reference", {})
        if isinstance(reference, ReferenceConfig):
            reference = asdict(reference)
        if not isinstance(reference, Mapping):
            raise TypeError(f"reference: expected a ReferenceConfig, found {type(reference).__name__}.")
        for kind, given in ((cls, settings), (ReferenceConfig, reference)):
            known = [field.name for field in fields(kind)]
            for name in given:
                if name not in known:
                    raise TypeError(f"{name!r}: there is no such setting; expected one of {', '.join(known)}.")
        return cls(**{**settings, "reference": ReferenceConfig(**reference)})


def _keep(config: object, **settings: Any) -> None:
    """Put checked settings into a frozen dataclass."""
    for name, value in settings.items():
        object.__setattr__(config, name, value)
