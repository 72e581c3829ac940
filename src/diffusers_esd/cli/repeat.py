"""The file beside an erasure that repeats its command: `config.yaml`, for `erase --config`.

`erasure.json` has what an erasure learned. This file has how its training ran as well, and the command in its first
line. It is for the person who trained; `push` does not publish it.
"""

from __future__ import annotations

import argparse
import shlex
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from ..config import ESDConfig
from ..files import CONFIG_NAME, write_text
from ..run import RunConfig

_OF_MODEL = ("dtype", "variant", "revision", "model_config", "quantize")


def write_config(
    folder: Path, concepts: list[str], options: argparse.Namespace, config: ESDConfig, run: RunConfig
) -> None:
    """Write the file into the folder of an erasure.

    Args:
        folder: The folder of the erasure.
        concepts: What was erased.
        options: The options of the command; those that name the model and the adapter are repeated.
        config: What was learned.
        run: How it ran.
    """
    yaml: Any = import_module("yaml")  # transformers needs it
    paths = {name: None if (path := getattr(run, name)) is None else str(path) for name in ("output_dir", "resume")}
    values = {**config.to_dict(), **asdict(run), **paths, "sample_prompts": list(run.sample_prompts)}
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)
    write_text(folder / CONFIG_NAME, f"# {_command(folder, concepts, options)}\n{text}")


def _command(folder: Path, concepts: list[str], options: argparse.Namespace) -> str:
    words = ["diffusers-esd", "erase", options.model, concepts[0]]
    for concept in concepts[1:]:
        words += ["--concept", concept]
    for name in ("name", *_OF_MODEL):
        if getattr(options, name) is not None:
            words += ["--" + name.replace("_", "-"), getattr(options, name)]
    words += ["--output", f"{folder}-again", "--config", str(folder / CONFIG_NAME)]
    return " ".join(shlex.join(words).splitlines())
