"""The files of an erasure, written and read.

`pytorch_lora_weights.safetensors` is loaded by plain `pipe.load_lora_weights` in every diffusers since 0.30: the keys
are PEFT's, the scale is folded into B, every layer has the same rank. Configuration and provenance are in a header key
of this file, and once more in `erasure.json` for people to read. `check.png` is the picture of `check`, and
`report.json` and `report.png` are what an evaluation found, if they are there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from PIL.Image import Image
from torch import Tensor

from .arguments import warn_user
from .config import ESDConfig
from .files import CONFIG_NAME, HEADER_KEY, WEIGHTS_NAME, read_safetensors, whole, write_safetensors
from .names import check_adapter_name
from .portable import check_portable, lora_metadata
from .provenance import Provenance, read_record
from .report import PICTURE_NAME as REPORT_PICTURE_NAME
from .report import REPORT_NAME, Report

JSON_NAME = "erasure.json"
PICTURE_NAME = "check.png"


def check_folder(folder: Path) -> None:
    """Refuse a folder that an erasure cannot be saved in.

    Raises:
        FileExistsError: If it is a file, or contains something and not an erasure.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / JSON_NAME).is_file()):
        raise FileExistsError(f"{folder} contains something that is not an erasure; give a new or an empty folder.")


def is_finished(folder: Path) -> bool:
    """Whether a folder contains an erasure whose training was not interrupted. A damaged one counts as finished."""
    if not (folder / JSON_NAME).is_file():
        return False
    try:
        return json.loads((folder / JSON_NAME).read_text(encoding="utf-8"))["provenance"]["complete"] is not False
    except (OSError, ValueError, KeyError, TypeError):
        return True


def write_folder(
    folder: Path,
    weights: Mapping[str, Tensor],
    record: Mapping[str, Any],
    provenance: Provenance,
    picture: Image | None,
    report: Report | None,
) -> None:
    """Write an erasure. A new folder appears whole or not at all; in an old one, each file is replaced whole.

    Args:
        folder: A new or empty folder, or one that contains an erasure.
        weights: Portable weights.
        record: `Erasure.to_dict()`.
        provenance: Where the erasure comes from.
        picture: The picture; `None` deletes that of the erasure that was there before.
        report: The report, likewise.

    Raises:
        FileExistsError: If the folder contains something that is not an erasure, or a finished erasure that an
            interrupted one would replace.
    """
    check_folder(folder)
    if not provenance.complete and is_finished(folder):
        raise FileExistsError(
            f"{folder} contains a finished erasure, and the training of this one was interrupted: save it in another "
            "folder, or delete the finished one first."
        )
    header = {
        "format": "pt",
        "lora_adapter_metadata": lora_metadata(provenance.component, provenance.pattern, record["rank"]),
        HEADER_KEY: json.dumps(record, sort_keys=True),
    }
    with ExitStack() as files:
        if not folder.exists():
            folder = files.enter_context(whole(folder))
            folder.mkdir()
        files.enter_context(whole(folder / JSON_NAME)).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        pictures = {PICTURE_NAME: picture, REPORT_PICTURE_NAME: None if report is None else report.picture}
        for name, image in pictures.items():
            if image is not None:
                image.save(files.enter_context(whole(folder / name)), format="PNG")
        if report is not None:
            text = json.dumps(report.to_dict(), indent=1) + "\n"
            files.enter_context(whole(folder / REPORT_NAME)).write_text(text, encoding="utf-8")
        write_safetensors(folder / WEIGHTS_NAME, weights, header)
        for name in [name for name, image in pictures.items() if image is None]:
            (folder / name).unlink(missing_ok=True)
        if report is None:
            (folder / REPORT_NAME).unlink(missing_ok=True)
        (folder / CONFIG_NAME).unlink(missing_ok=True)  # it was about the erasure that was there before


def read_file(file: Path) -> tuple[str, dict[str, Tensor], ESDConfig | None, Provenance]:
    """Name, weights, configuration and provenance of an erasure.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, not an erasure or not a safetensors file.
    """
    header, weights = read_safetensors(file)
    if HEADER_KEY not in header:
        raise ValueError(
            f"{file} is not an erasure: {HEADER_KEY!r} is missing in its header. A LoRA of another kind loads with "
            "pipe.load_lora_weights(...)."
        )
    try:
        record = json.loads(header[HEADER_KEY])
        name, config, provenance = read_record(record)
        check_adapter_name(name)
        rank = max((len(value) for key, value in weights.items() if key.endswith(".lora_A.weight")), default=0)
        check_portable(weights, provenance.component, record.get("rank", rank))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} is damaged or of a newer version ({error}); fetch it again.") from error
    return name, weights, config, provenance


def read_report(folder: Path) -> Report | None:
    """The report in the folder of an erasure, if there is one.

    Warns:
        UserWarning: If it is damaged; then it is `None`.
    """
    if not (folder / REPORT_NAME).is_file():
        return None
    try:
        return Report.from_pretrained(folder)
    except ValueError as error:
        warn_user(f"{error} The erasure is read without its report.")
        return None
