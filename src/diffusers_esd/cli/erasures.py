"""The commands that use erasures: draw with them, convert them, publish them, show what they are."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .options import (
    SOURCE,
    add_command,
    add_erasures,
    add_model,
    add_output,
    check_output,
    load_pipeline,
    load_stored_pipeline,
    read_erasures,
    save,
)

_LABELS = {
    "left_out": "left_out, layers by reason",
    "leaks": "leaks, the largest",
    "history": "alignment, from first to last",
}


def add_commands(commands: Any) -> None:
    """Add the commands."""
    text = "draw with erasures at several scales"
    preview = add_command(commands, "preview", _preview, text, output="image to write")
    _add_drawing(preview)
    preview.add_argument(
        "--scales", type=float, nargs="+", default=[0.0, 0.5, 1.0, 1.5], help="a column each; they multiply the scales"
    )

    text = "draw without and with several erasures together"
    _add_drawing(add_command(commands, "stack", _stack, text, output="image to write"))

    text = "write a file for ComfyUI, Forge and A1111; several erasures are merged"
    add_erasures(add_command(commands, "export", _export, text, output="file, .safetensors"))

    imported = add_command(commands, "import", _import, "read an eraser of another tool")
    add_output(imported)
    imported.add_argument("file", type=Path, help="its .safetensors file")
    add_model(imported)
    imported.add_argument("--concept", required=True, help="what it erases")
    imported.add_argument("--name", help="name of the erasure")
    imported.add_argument("--rank", type=int, default=16, help="rank of the erasure, for a file of full weights")

    push = add_command(commands, "push", _push, "publish an erasure or a recipe on the Hugging Face Hub")
    push.add_argument("erasure", help=SOURCE)
    push.add_argument("repo_id", help="user/name")
    push.add_argument("--private", action="store_true", default=None)

    info = add_command(commands, "info", _info, "show what an erasure or a recipe is, without loading a model")
    info.add_argument("erasure", help=SOURCE)


def _add_drawing(parser: Any) -> None:
    add_model(parser)
    add_erasures(parser)
    parser.add_argument("--prompt", action="append", required=True, help="what to draw; may be repeated")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of the noise")
    parser.add_argument("--steps", type=int, default=25, help="denoising steps")


def _preview(options: argparse.Namespace) -> None:
    _draw(options, options.scales)


def _stack(options: argparse.Namespace) -> None:
    _draw(options, [0.0, 1.0])


def _draw(options: argparse.Namespace, scales: Sequence[float]) -> None:
    from ..pictures.preview import preview

    if not options.output.parent.is_dir():
        raise FileNotFoundError(f"The folder {options.output.parent} does not exist; create it first.")
    erasures, steps = read_erasures(options.erasures), {"num_inference_steps": options.steps}
    image = preview(load_pipeline(options), erasures, options.prompt, scales=scales, seeds=options.seeds, **steps)
    image.save(options.output)
    print(options.output)


def _export(options: argparse.Namespace) -> None:
    from ..exchange import export

    print(export(read_erasures(options.erasures), options.output))


def _import(options: argparse.Namespace) -> None:
    from ..exchange import import_erasure

    check_output(options)
    pipe = load_stored_pipeline(options)
    erasure = import_erasure(options.file, pipe, concept=options.concept, name=options.name, rank=options.rank)
    save(erasure, options)


def _push(options: argparse.Namespace) -> None:
    from ..stacks.sources import load

    print(load(options.erasure).push_to_hub(options.repo_id, private=options.private))


def _info(options: argparse.Namespace) -> None:
    from .. import hub
    from ..stacks.entry import NAMES
    from ..stacks.recipe import read_recipe

    file = hub.locate(options.erasure, NAMES)
    if file.suffix == ".json":
        for entry in read_recipe(file, is_local=Path(options.erasure).exists()).entries:
            print(f"{entry}={entry.scale}")
        return
    for key, value in _header_fields(file).items():
        if value not in (None, "", (), {}):
            print(f"{_LABELS.get(key, key)}: {value if key == 'history' else json.dumps(value, ensure_ascii=False)}")


def _header_fields(file: Path) -> dict[str, Any]:
    """What the header of an erasure says, by field."""
    from ..files import HEADER_KEY, read_header
    from ..provenance import read_record
    from ..summary import alignment_curve

    header = read_header(file)
    if HEADER_KEY not in header:
        raise ValueError(f"{file} is not an erasure: {HEADER_KEY!r} is missing in its header.")
    try:
        record = json.loads(header[HEADER_KEY])
        name, config, provenance = read_record(record)
        history = alignment_curve(config, provenance)
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"{file} is damaged or of a newer version ({error}); fetch it again.") from error
    shown = {"name": name, "rank": record.get("rank"), **provenance.to_dict()}
    shown |= {} if config is None else config.to_dict()
    shown |= {"left_out": {reason: len(names) for reason, names in provenance.left_out.items()}}
    shown |= {"leaks": max(provenance.leaks.values(), default=None)}
    del shown["history"]
    return shown | {"history": history}
