"""Options that several commands share, and what they become: configurations, erasures, a pipeline."""

from __future__ import annotations

import argparse
import itertools
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

SOURCE = "folder, file or Hub id (user/name or user/name@revision) of an erasure or a recipe"

Command = Callable[[argparse.Namespace], None]


def add_command(commands: Any, name: str, run: Command, text: str, *, output: str | None = None) -> Any:
    """Add a command.

    Args:
        commands: The subparsers of `argparse`.
        name: Name of the command.
        run: What it does.
        text: Its help.
        output: Help of the option `--output`; `None` leaves it out.

    Returns:
        The parser of the command.
    """
    parser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    parser.set_defaults(run=run)
    if output is not None:
        parser.add_argument("-o", "--output", type=Path, required=True, help=output)
    return parser


def add_model(parser: Any) -> None:
    """Add the options of `load_pipeline`."""
    parser.add_argument("model", help="folder or Hub id of a pipeline")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="type of the weights")
    parser.add_argument("--device", help="cuda, mps or cpu; the best that is available by default")


def load_pipeline(options: argparse.Namespace) -> Any:
    """The pipeline for training and drawing: on the best device, and in half precision if that is not the CPU.

    Each process of a launcher has a GPU of its own.
    """
    import torch
    from diffusers import DiffusionPipeline

    from ..training.launch import own_device

    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = own_device(options.device or best)
    half = "bfloat16" if device.startswith("cuda") and torch.cuda.is_bf16_supported() else "float16"
    dtype = getattr(torch, options.dtype or ("float32" if device == "cpu" else half))
    return DiffusionPipeline.from_pretrained(options.model, dtype=dtype).to(device)


def load_stored_pipeline(options: argparse.Namespace) -> Any:
    """The pipeline for work on the weights themselves: in the types of its files, on the CPU by default."""
    import torch
    from diffusers import DiffusionPipeline

    from ..files import stored_dtypes

    dtypes: Any
    if options.dtype:
        dtypes = getattr(torch, options.dtype)
    else:
        folder = Path(options.model)
        if not folder.is_dir():
            folder = Path(DiffusionPipeline.download(options.model))
        # from_pretrained does not accept dtype="auto", and loads in float32 without a dtype.
        dtypes = {"default": torch.float32, **stored_dtypes(folder)}
    return DiffusionPipeline.from_pretrained(options.model, dtype=dtypes).to(options.device or "cpu")


def add_erasures(parser: Any) -> None:
    """Add one or several erasures with scales."""
    text = f"{SOURCE}, with its scale: no-cat=0.8; 1 by default"
    parser.add_argument("erasures", nargs="+", metavar="erasure[=scale]", help=text)


def with_scale(text: str) -> tuple[str, float]:
    """The source and the scale of `source` or `source=scale`."""
    source, _, scale = text.rpartition("=")
    if source and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", scale):
        return source, float(scale)
    return text, 1.0


def read_erasures(texts: Sequence[str]) -> dict[Any, float]:
    """The erasures of `source` and `source=scale`, and their scales. The same source may be given twice."""
    from ..stacks.sources import read_parts

    return {erasure: scale for text in texts for erasure, scale in read_parts(*with_scale(text))}


def add_fields(group: Any, kind: type) -> None:
    """Add an option for each field of a configuration, with its documentation."""
    text = (kind.__doc__ or "").partition("Attributes:")[2]
    described = dict(re.findall(r"^ {8}(\w+): (.*?)(?=^ {8}\w+: |\Z)", text, re.MULTILINE | re.DOTALL))
    types = get_type_hints(kind)
    for field in fields(kind):
        allowed = get_args(types[field.name]) or (types[field.name],)
        options: dict[str, Any] = {"help": " ".join(described[field.name].split()).replace("%", "%%")}
        if field.name in ("anchor", "preserve", "synonyms", "sample_prompts"):
            options |= {"nargs": "*", "metavar": "PROMPT"}
        elif allowed == (bool,):
            options["action"] = argparse.BooleanOptionalAction
        elif all(isinstance(value, str) for value in allowed):
            options["choices"] = allowed
        else:
            options["type"] = next(t for t in allowed if isinstance(t, type) and t is not type(None))
        group.add_argument("--" + field.name.replace("_", "-"), default=argparse.SUPPRESS, **options)


def given_fields(options: argparse.Namespace, kind: type) -> dict[str, Any]:
    """The fields of a configuration that were given."""
    values = {field.name: getattr(options, field.name) for field in fields(kind) if hasattr(options, field.name)}
    if values.get("preserve") == ["vocabulary"]:
        values["preserve"] = "vocabulary"
    if len(values.get("anchor", ())) == 1:
        values["anchor"] = values["anchor"][0]
    return values


def add_output(parser: Any) -> None:
    """Add the folder of an erasure, for `check_output` and `save`."""
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the erasure")
    parser.add_argument("--force", action="store_true", help="replace a finished erasure in this folder")


def check_output(options: argparse.Namespace) -> None:
    """Refuse a folder for an erasure, before anything is loaded.

    Raises:
        FileExistsError: If it contains something else, or a finished erasure, and `--force` is not given.
    """
    from ..storage import check_folder, is_finished

    check_folder(options.output)
    if is_finished(options.output) and not options.force:
        raise FileExistsError(
            f"{options.output} contains a finished erasure: give another folder, or --force to replace it."
        )


def save(erasure: Any, options: argparse.Namespace) -> None:
    """Save an erasure; print its folder and, if its rank was lowered, the error.

    An interrupted training does not replace a finished erasure: it is saved beside it.
    """
    from ..storage import is_finished

    folder = options.output
    if not erasure.provenance.complete and is_finished(folder):
        folder = _free_beside(folder.resolve())  # "." has no name
        print(f"interrupted: {options.output} keeps its finished erasure, this one is saved beside it")
    print(erasure.save_pretrained(folder))
    if erasure.provenance.rank_error:
        print(f"relative error of rank {erasure.rank}: {erasure.provenance.rank_error:.2%}")


def _free_beside(folder: Path) -> Path:
    """The first of `folder-interrupted`, `folder-interrupted-2` and so on that an interrupted erasure may replace."""
    from ..storage import check_folder, is_finished

    for number in itertools.count(1):
        other = folder.with_name(f"{folder.name}-interrupted" + ("" if number == 1 else f"-{number}"))
        with suppress(FileExistsError):
            check_folder(other)
            if not is_finished(other):
                break
    return other
