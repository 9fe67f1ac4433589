"""``export``: the weights of a checkpoint for use without this package, as plain checkpoint, safetensors or ONNX."""

from __future__ import annotations

import inspect
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from lightning.pytorch import LightningModule

from ts_lightning.amount import amount
from ts_lightning.cli import files
from ts_lightning.cli.parser import Parser
from ts_lightning.engine.running.batches import part
from ts_lightning.errors import SettingError, first_line
from ts_lightning.lightning.checkpoint import SETTINGS
from ts_lightning.lightning.other_name import refuse_other_name
from ts_lightning.lightning.session import session_of
from ts_lightning.lightning.substitution import KEY
from ts_lightning.optional import imported

_INSTALL = "pip install 'ts-lightning[export]'"
#: what a plain checkpoint keeps
_PLAIN = ("state_dict", "hyper_parameters", "hparams_name", "pytorch-lightning_version", "epoch", "global_step")
#: samples of the reference batch that a model is traced with
_SAMPLES = 2
#: bytes that ONNX has room for in one file
_ONE_FILE = 2_000_000_000


def main(argv: Sequence[str]) -> None:
    """Write a checkpoint in another form.

    Args:
        argv: the command line's arguments, behind ``export``.

    Raises:
        SettingError: the checkpoint, its class or the form cannot be used.
        DataError: a package is not installed.
        SystemExit: with 2 after a wrong option, with 0 after ``--help``.
    """
    parser = Parser(
        prog="ts-lightning export",
        description="Write the weights of a checkpoint for use without ts_lightning. The file's ending says the form: "
        ".ckpt (Lightning, for the class with or without the mixin), .safetensors, or .onnx.",
    )
    parser.add_argument("checkpoint", type=Path, help="A Lightning checkpoint, as last.ckpt of a run.")
    parser.add_argument("out", type=Path, help="The file to write: NAME.ckpt, NAME.safetensors or NAME.onnx.")
    parser.add_argument("--model", type=str | None, help="For ONNX, the module's class (default: the checkpoint's).")
    parser.add_argument(
        "--input",
        type=Path | None,
        help="For ONNX, a file of torch.save with a tensor, or a tuple of them, to call the module with (default: the "
        "first samples of the reference batch). Its first dimension is the batch, of any size in the exported model.",
    )
    options = parser.parse_args(list(argv))
    write = _FORMS.get(options.out.suffix)
    if write is None:
        raise SettingError(f"'{options.out}': found the ending '{options.out.suffix}'; expected {', '.join(_FORMS)}.")
    checkpoint = files.checkpoint(options.checkpoint)
    _check_out(options.out, options.checkpoint)
    # beside the file, which stays as it is if a disk is full, say, and on the same disk
    with tempfile.TemporaryDirectory(prefix=".", dir=options.out.resolve().parent) as part:
        write(checkpoint, options, Path(part) / options.out.name)
        out = options.out.resolve()
        for file in Path(part).iterdir():  # weights of a large ONNX are in a second one
            os.replace(file, out if file.name == options.out.name else out.with_name(file.name))
    print(f"{options.out}: {amount(sum(value.numel() for value in _tensors(checkpoint).values()), 'weight')}")


def _check_out(out: Path, checkpoint: Path) -> None:
    """Refuse a file that cannot be written, or the checkpoint itself, before anything is computed."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        file = out.resolve()  # the one behind a link
        is_new = not file.exists()
        with file.open("ab"), tempfile.TemporaryDirectory(dir=file.parent):
            pass
        if is_new:
            file.unlink()
    except OSError as error:
        raise SettingError(f"'{out}': cannot be written ({error.strerror}).") from error
    if out.exists() and out.samefile(checkpoint):
        raise SettingError(
            f"'{out}': found the checkpoint itself, which would lose its targets; expected another file."
        )


def _tensors(checkpoint: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The weights and buffers by name, without what a module keeps as ``get_extra_state``."""
    return {name: value for name, value in checkpoint["state_dict"].items() if isinstance(value, torch.Tensor)}


def _plain(checkpoint: dict[str, Any], options: Any, file: Path) -> None:
    kept = {name: checkpoint[name] for name in _PLAIN if name in checkpoint}
    arguments = kept.get("hyper_parameters", {})
    if not any(isinstance(value, dict) and "class_path" in value for value in arguments.values()):
        kept["hyper_parameters"] = {name: value for name, value in arguments.items() if not name.startswith("_")}
    torch.save(kept, file)


def _safetensors(checkpoint: dict[str, Any], options: Any, file: Path) -> None:
    save_file = imported("safetensors.torch", "safetensors", _INSTALL).save_file
    weights = _tensors(checkpoint)
    if left := sorted(set(checkpoint["state_dict"]) - set(weights)):
        warnings.warn(f"'{options.out}': without {', '.join(left)}, which are no tensors.", stacklevel=2)
    # copies, since the form has no tied weights
    copies = {name: value.clone(memory_format=torch.contiguous_format) for name, value in weights.items()}
    save_file(copies, file)
    mask = os.umask(0)  # there is no other way to read it
    os.umask(mask)
    file.chmod(0o666 & ~mask)  # which safetensors makes for its owner alone


def _onnx(checkpoint: dict[str, Any], options: Any, file: Path) -> None:
    imported("onnxscript", "onnxscript", _INSTALL)
    kind = _class(checkpoint, options.model)
    try:
        model = kind.load_from_checkpoint(options.checkpoint, map_location="cpu").eval()
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        found = " ".join([first_line(error), *(line.strip() for line in str(error).splitlines()[1:2])])
        raise SettingError(
            f"'{options.checkpoint}': cannot be loaded into {kind.__name__} ({found.rstrip('. ')}); expected the class "
            f"that was trained, whose arguments save_hyperparameters() has kept, and whose layers are made in __init__ "
            f"or configure_model, since there is no setup here. .ckpt and .safetensors need no class."
        ) from error
    named: dict[str, Any] = {}
    if options.input is None:
        arguments, named = _from_reference(model, checkpoint)
    else:
        given = files.loaded(options.input)
        arguments = given if isinstance(given, tuple) else (given,)
        _check_input(model, arguments, options.input)
    batch = torch.export.Dim("batch")
    names = list(inspect.signature(model.forward).parameters)
    shapes = {
        name: {0: batch} if isinstance(value, torch.Tensor) else None
        for name, value in {**dict(zip(names, arguments, strict=False)), **named}.items()
    }
    size = sum(value.numel() * value.element_size() for value in _tensors(checkpoint).values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, of PyTorch's own inside
        try:
            torch.onnx.export(
                model, arguments, file, kwargs=named, dynamo=True, dynamic_shapes=shapes, verbose=False,
                external_data=size > _ONE_FILE,
            )  # fmt: skip
        except torch.onnx.errors.OnnxExporterError as error:
            cause = first_line(error.__cause__ or error)
            raise SettingError(
                f"'{options.out}': PyTorch's exporter cannot translate {type(model).__name__} ({cause}). Change its "
                f"forward so that torch.export takes it, or export the weights alone, as .ckpt or .safetensors."
            ) from error


def _check_input(model: LightningModule, arguments: tuple[Any, ...], file: Path) -> None:
    """Refuse an input with which the module cannot be called, of which the exporter says much and nothing plain."""
    try:
        with torch.no_grad():
            model(*arguments)
    except Exception as error:  # whatever a user's forward raises
        raise SettingError(
            f"--input {file}: {type(model).__name__} cannot be called with what it holds ({first_line(error)}). "
            f"Expected a tensor, or a tuple of tensors, as forward takes them."
        ) from error


_FORMS: dict[str, Callable[[dict[str, Any], Any, Path], None]] = {
    ".ckpt": _plain,
    ".safetensors": _safetensors,
    ".onnx": _onnx,
}


def _class(checkpoint: dict[str, Any], given: str | None) -> type[LightningModule]:
    path = (
        given or checkpoint.get(SETTINGS, {}).get("class") or checkpoint.get("hyper_parameters", {}).get("_class_path")
    )
    if path is None:
        raise SettingError("The checkpoint does not say the class of its module: add --model package.module.Class.")
    try:
        kind = resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingError(f"--model {path}: cannot be imported ({error}); expected package.module.Class.") from error
    if isinstance(kind, type):
        refuse_other_name(kind, f"--model {path}")
    if not (isinstance(kind, type) and issubclass(kind, LightningModule)):
        raise SettingError(f"--model {path}: found no LightningModule; expected the class of one.")
    return kind


def _as_trained(model: Any, samples: Any) -> Any:
    """Call a module without the mixin as target space calls it by default."""
    return session_of(model).construction.call(samples)


def _from_reference(model: LightningModule, checkpoint: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What ``forward`` is called with on the first samples of the checkpoint's reference batch."""
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    entry = checkpoint.get(KEY)
    if entry is not None and entry["plain"]:
        samples = part(entry["reference"], 0, _SAMPLES)
        handle = model.register_forward_pre_hook(
            lambda _, arguments, named: seen.append((arguments, named)), with_kwargs=True
        )
        # of a module that was converted, the checkpoint's class is the one without the mixin
        call: Any = getattr(type(model), "reference_forward", _as_trained)
        with torch.no_grad():
            call(model, samples)
        handle.remove()
    if not seen:
        raise SettingError("The checkpoint has no reference batch to call the module with: add --input FILE.")
    return seen[0]
