"""TargetSpaceCLI: Lightning's own command line, with target space for any module and a folder for every run."""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.trainer.states import TrainerStatus
from lightning.pytorch.utilities import rank_zero_info

from ts_lightning.callbacks.monitor import TargetSpaceMonitor
from ts_lightning.cli import causes, checks, helptext, late_optimizer, meant
from ts_lightning.cli.clock import StepClock
from ts_lightning.cli.facts import Facts
from ts_lightning.cli.files import LastCheckpoint, Settings, check_checkpoint, discarding, is_first, run_folder
from ts_lightning.cli.finish import finish
from ts_lightning.cli.memory import TrainingMemory
from ts_lightning.cli.metrics_file import with_csv
from ts_lightning.cli.parser import Parser
from ts_lightning.cli.place import Place
from ts_lightning.cli.predictions import PredictionFile
from ts_lightning.cli.spawned import Spawned
from ts_lightning.config import TargetSpaceConfig
from ts_lightning.errors import SettingError, expect, first_line
from ts_lightning.interrupt import INTERRUPTED
from ts_lightning.lightning.convert import convert, space_of
from ts_lightning.optim import TargetAdam
from ts_lightning.report import History
from ts_lightning.report.run import CHECKPOINT, METRICS
from ts_lightning.report.summary import spaces

#: what --trainer.callbacks+= and --optimizer know by their names alone, being imported
NAMED = (TargetSpaceMonitor, TargetAdam)
_HELP = (
    "Settings of target space for the module, whether or not it has the mixin: --target_space.ridge 0.1 sets one, "
    "--target_space.help lists all, null trains in weight space. Default: the module's own."
)


class TargetSpaceCLI(LightningCLI):
    """Lightning's command line with ``fit``, ``validate``, ``test`` and ``predict``.

    Beside Lightning's options it has

    - ``--target_space``: settings of target space, which are given to the module; one without the mixin is converted.
    - ``--out``: the run's folder, for settings, metrics, the last checkpoint, table, figures and report.
    - ``--threads``: CPU threads.

    Args:
        model_class: the module; ``None`` takes any, by ``--model``.
        datamodule_class: the data module; ``None`` takes any, by ``--data``.
        name: of the program, after which folders of runs are called.
        command: what to type for the program.
        then_test: test after ``fit``.
        defaults: of options, by name.
        commands: further commands for the help to list, and what each does; the program runs them itself.
        options: further arguments of LightningCLI.

    Attributes:
        folder: where the run's files are; ``None`` where it leaves none, as with ``fast_dev_run``.
        clock: what the steps took.
        memory: what training took.
        facts: on what it was trained.
    """

    def __init__(
        self,
        model_class: type[LightningModule] | None = None,
        datamodule_class: type[LightningDataModule] | None = None,
        *,
        name: str = "ts_lightning",
        command: str = "ts-lightning",
        then_test: bool = False,
        defaults: Mapping[str, Any] | None = None,
        commands: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        self.name, self.command, self.then_test = name, command, then_test
        self._commands = dict(commands or {})
        self._defaults = dict(defaults or {})
        self.folder: Path | None = None
        self.clock, self.memory, self.facts = StepClock(), TrainingMemory(), Facts()
        self._spawned = Spawned(self.clock, self.memory, self.facts)
        own = {"save_config_callback": Settings, "seed_everything_default": 0, "parser_class": Parser}
        parser_kwargs = {"prog": command, **options.pop("parser_kwargs", {})}
        words = sys.argv[1:] if options.get("args") is None else options["args"]
        self._typed = next(iter(words), None) if isinstance(words, list) else None
        super().__init__(model_class, datamodule_class, parser_kwargs=parser_kwargs, **{**own, **options})

    @property
    def space(self) -> Literal["target", "weight"]:
        """In which space the module trains, ``target`` or ``weight``."""
        return space_of(self.model)

    @property
    def spaces(self) -> str:
        """The space that the module trained in, in words, or both where target space ended with ``until``."""
        return spaces(self.space, self._until, self.trainer.global_step)

    @property
    def _until(self) -> int | None:
        return getattr(getattr(self.model, "target_space", None), "until", None)

    def title(self) -> str:
        """What is run, for table and report."""
        return f"{type(self.model).__name__}, {self.spaces}"

    def remarks(self, history: History) -> dict[str, str]:
        """Further lines of the table, by their label."""
        return {}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options that the class says."""
        own = getattr(self.model_class, "target_space", None)
        out = f"Folder for the run's files, new or empty (default: runs/{self.name}/<time>)."
        parser.add_argument("--target_space", type=TargetSpaceConfig | None, default=own, help=_HELP)
        parser.add_argument("--out", type=Path | None, help=out)
        parser.add_argument("--threads", type=int | None, help="CPU threads (default: torch's choice).")
        parser.set_defaults(self._defaults)

    def _add_subcommands(self, parser: LightningArgumentParser, **options: Any) -> None:
        """Add Lightning's commands, with a line each for the help, and list the others."""
        super()._add_subcommands(parser, **options)
        assert isinstance(parser, Parser)
        parser.list_commands({**helptext.COMMANDS, **self._commands})
        given = {"model": self.model_class, "data": self.datamodule_class}
        for name, command in self._subcommand_parsers.items():
            helptext.shorten(command, f"{self.command} {name}", name, {part for part, kind in given.items() if kind})

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **options: Any) -> LightningArgumentParser:
        """Lightning's, without options where another command is typed: to find them takes longer than to parse."""
        if self._typed not in self.subcommands() or self._typed == subcommand:
            return super()._prepare_subcommand_parser(klass, subcommand, **options)
        return self.init_parser(**options)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, with the settings of the module that is named as the default of ``--target_space``."""
        self._arguments = args
        if self.model_class is None:
            self._default_to_those_of_the_module(parser, args)
        super().parse_arguments(parser, args)
        chosen = self.config[self.config.subcommand]
        files = [*(self.config.get("config") or []), *(chosen.get("config") or [])]
        checks.check_keys(files, [*vars(chosen), *self.subcommands()])
        check_checkpoint(chosen.get("ckpt_path"), self.config.subcommand)

    def _parse_ckpt_path(self) -> None:
        """Lightning's, which takes the module's hyperparameters from a checkpoint; what they replace is said."""
        chosen = self.config.get("subcommand")
        if not chosen:
            return
        before = self.config[chosen].get("model")
        meant.within_a_checkpoint(super()._parse_ckpt_path, self.config[chosen].get("ckpt_path"))
        after = self.config[chosen].get("model")
        if before == after:
            return
        lost = meant.replaced(meant.given(self.parser, self._arguments)[chosen].get("model"), after, self.model_class)
        meant.say_replaced(self.config[chosen].ckpt_path, lost)

    def _default_to_those_of_the_module(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Find out which module is named, and take its settings of target space as the default."""
        if isinstance(args, list) or args is None:  # --print_config ends the parse, and is to print the settings
            words = [word for word in (sys.argv[1:] if args is None else args) if not word.startswith("--print_config")]
            config = parser.parse_args(words)
        else:
            config = parser.parse_object(args)
        chosen = config[config.subcommand].get("model")
        if chosen and (own := getattr(resolve_name(chosen["class_path"]), "target_space", None)) is not None:
            self._subcommand_parsers[config.subcommand].set_defaults({"target_space": own})

    def _set_seed(self) -> None:
        """Lightning's; a number that is no seed, also one of the environment, is the user's mistake."""
        try:
            super()._set_seed()
        except ValueError as error:
            raise SettingError(f"--seed_everything: {first_line(error)}.") from error

    def _add_configure_optimizers_method_to_model(self, subcommand: str | None) -> None:
        """Lightning's, but for an optimizer of ``--optimizer`` that no subclass links to an argument of the module."""
        optimizer, schedule = (self._get(self.config_init, key) for key in ("optimizer", "lr_scheduler"))
        linked = {link for _, link in self._parser(subcommand)._optimizers.values()} != {"AUTOMATIC"}
        given = [one for one in (optimizer, schedule) if one]
        if given and not linked and all("class_path" in one for one in given):
            late_optimizer.install(self.model, optimizer, schedule, self.configure_optimizers, fits=subcommand == "fit")
        else:
            super()._add_configure_optimizers_method_to_model(subcommand)

    def before_instantiate_classes(self) -> None:
        """Check the options that nothing else checks, and set the threads."""
        checks.check_target_space(self._get(self.config, "target_space"))
        checks.check_trainer(self._get(self.config, "trainer"))
        threads = self._get(self.config, "threads")
        if threads is not None:
            expect("--threads", threads, 1, below=checks.MOST_THREADS + 1)
            torch.set_num_threads(threads)

    def instantiate_classes(self) -> None:
        """Make the module, in target space if that is asked for, the data module and the Trainer."""
        causes.unwrapped(super().instantiate_classes)
        settings = self._get(self.config_init, "target_space")
        if settings != getattr(type(self.model), "target_space", None):  # else those of its constructor stay
            convert(self.model, settings)
        if self.config.subcommand == "fit" and self.space == "weight":
            rank_zero_info(
                f"{type(self.model).__name__} trains in weight space: --target_space is null, or not given to a module "
                f"without settings of its own. --target_space {{}} trains it in target space."
            )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The Trainer, whose files go to the run's folder."""
        asked = {**self._get(self.config_init, "trainer"), **kwargs}
        if asked.get("barebones"):  # to which a recipe's defaults give way
            given, self.trainer_defaults = meant.given(self.parser, self._arguments)[self.config.subcommand].trainer, {}
            kwargs = {**{name: None for name in checks.NOT_BARE if name not in given}, **kwargs}
        if asked.get("fast_dev_run") or asked.get("barebones"):
            return self._trainer(kwargs)
        checks.check_root(asked.get("default_root_dir"))
        out = self._get(self.config_init, "out")
        self.folder = run_folder(self.name, out) if is_first() else (out or Path("runs"))
        own = [self.clock, self.memory, self.facts, self._spawned, Place(), PredictionFile(self.folder)]
        callbacks: list[Callback] = [*(asked.get("callbacks") or []), *own]
        if asked.get("enable_checkpointing") is not False:
            callbacks.append(LastCheckpoint(self.folder / CHECKPOINT))
        logger = with_csv(asked.get("logger"), self.folder)
        with discarding(self.folder):
            return self._trainer({**kwargs, "default_root_dir": self.folder, "callbacks": callbacks, "logger": logger})

    def _trainer(self, options: dict[str, Any]) -> Trainer:
        """Lightning's Trainer; settings that do not go together are the user's mistake."""
        try:
            return super().instantiate_trainer(**options)
        except (TypeError, ValueError) as error:
            raise SettingError(f"--trainer: {first_line(error)}") from error

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it; Ctrl-C and errors, too, end a fit with what was reached."""
        if subcommand != "fit" and self._get(self.config, "ckpt_path") is None:
            warnings.warn("no --ckpt_path: the module is used as it is made, without any training.", stacklevel=2)
        handler = signal.getsignal(signal.SIGINT)
        try:
            with discarding(self.folder):
                if self.datamodule is None:
                    checks.check_data(self.model, subcommand)
                with self._spawned.brought(self.trainer):
                    super()._run_subcommand(subcommand)
                if subcommand == "fit" and self.then_test:
                    self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)
        except SystemExit:  # how Lightning ends on Ctrl-C, after closing its loggers
            if self.trainer.state.status != TrainerStatus.INTERRUPTED:
                raise
        except Exception:
            if subcommand == "fit":
                self._finish(failed=True)
            raise
        finally:
            signal.signal(signal.SIGINT, handler)  # Lightning ignores further ones from the first on
        interrupted = self.trainer.state.status == TrainerStatus.INTERRUPTED
        if subcommand == "fit":
            self._finish(interrupted=interrupted)
        if interrupted:
            sys.exit(INTERRUPTED)

    def _finish(self, *, interrupted: bool = False, failed: bool = False) -> None:
        """Leave what a fit has reached, in the one process that writes; nothing of one that failed at its beginning."""
        if self.folder is None or not self.trainer.is_global_zero:
            return
        history = History.read(self.folder / METRICS)
        if failed and not history.metrics:
            return
        finish(
            self.trainer,
            self.folder,
            history,
            title=self.title(),
            space=self.space,
            until=self._until,
            clock=self.clock,
            command=self.command,
            timed=self._get(self.config, "trainer.max_time") is not None,
            peak_memory=self.memory.peak,
            remarks={**self.facts.found, **self.remarks(history)},
            interrupted=interrupted,
            failed=failed,
        )
