"""The commands that use erasures: draw with them, convert them, publish them. `info.py` shows what they are."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_args

from ..arguments import check_scale
from ..tools import Tool
from .model import add_model, load_pipeline, load_stored_pipeline
from .options import (
    SOURCE,
    adapter_name,
    add_command,
    add_erasures,
    add_output,
    check_output,
    checked,
    positive,
    prompt,
    read_erasures,
    save,
)


def add_commands(commands: Any) -> None:
    """Add the commands."""
    text = "draw with erasures, and without: a row for each prompt and seed, a column for each multiplier"
    _add_drawing(add_command(commands, "preview", _preview, text, output="image to write, such as preview.png"))

    text = "write a file for ComfyUI and other tools; several erasures are merged"
    exported = add_command(commands, "export", _export, text, output="file to write, .safetensors")
    add_erasures(exported)
    text = "the tool that will read it; layers that it would not find are named (default: any)"
    exported.add_argument("--for", dest="tool", choices=get_args(Tool), help=text)

    imported = add_command(commands, "import", _import, "read an eraser of another tool")
    add_output(imported)
    imported.add_argument("file", type=Path, help="its .safetensors file")
    add_model(imported, stored=True)
    imported.add_argument("--concept", required=True, type=prompt, help="what it erases")
    imported.add_argument("--name", type=adapter_name, help="name of the erasure (default: the file's)")
    text = "rank of the erasure, for a file of full weights (default: %(default)s)"
    imported.add_argument("--rank", type=positive, default=16, help=text)

    push = add_command(commands, "push", _push, "publish an erasure or a recipe on the Hugging Face Hub")
    push.add_argument("erasure", help=SOURCE)
    push.add_argument("repo_id", help="user/name")
    push.add_argument("--private", action="store_true", default=None, help="make a new repository private")


def _add_drawing(parser: Any) -> None:
    add_model(parser)
    add_erasures(parser)
    parser.add_argument("--prompt", action="append", required=True, type=prompt, help="what to draw; may be repeated")
    text = "a column each: the scales of all erasures are multiplied by it; 0 is without them (default: 0 0.5 1 1.5)"
    multipliers = [0.0, 0.5, 1.0, 1.5]
    parser.add_argument("--multipliers", type=checked(_multiplier), nargs="+", default=multipliers, help=text)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of the noise (default: 0)")
    parser.add_argument("--steps", type=positive, default=25, help="denoising steps (default: %(default)s)")


def _multiplier(text: str) -> float:
    return check_scale("multiplier", float(text), warn=False)


def _preview(options: argparse.Namespace) -> None:
    from ..pictures.preview import preview

    _check_image(options.output)
    erasures = read_erasures(options.erasures)
    image = preview(
        load_pipeline(options),
        erasures,
        options.prompt,
        scales=options.multipliers,
        seeds=options.seeds,
        num_inference_steps=options.steps,
    )
    image.save(options.output)
    print(options.output)


def _check_image(file: Path) -> None:
    """Refuse what an image cannot be saved as, before anything is loaded."""
    from PIL import Image

    writable = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.SAVE}
    if file.suffix.lower() not in writable:
        raise ValueError(f"--output must be an image, such as preview.png; got {file}.")
    if not file.parent.is_dir():
        raise FileNotFoundError(f"The folder {file.parent} does not exist; create it first.")


def _export(options: argparse.Namespace) -> None:
    from ..exchange import check_export, export

    check_export(options.output)
    print(export(read_erasures(options.erasures), options.output, tool=options.tool))


def _import(options: argparse.Namespace) -> None:
    from ..exchange import check_foreign, import_erasure

    check_output(options)
    check_foreign(options.file)
    pipe = load_stored_pipeline(options)
    erasure = import_erasure(options.file, pipe, concept=options.concept, name=options.name, rank=options.rank)
    save(erasure, options)


def _push(options: argparse.Namespace) -> None:
    from ..hub import check_repo_id
    from ..stacks.sources import load

    check_repo_id(options.repo_id)
    print(load(options.erasure).push_to_hub(options.repo_id, private=options.private))
