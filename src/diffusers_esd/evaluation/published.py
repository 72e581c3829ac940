"""Prompt sets of others, read from their publishers' files.

None is in this package: some prompts are offensive, and some files may not be used commercially. A set is drawn as it
was published; what is wrong in it is in its docstring, and a warning says what is in the file at hand.
"""

from __future__ import annotations

import csv
import itertools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError

from ..arguments import warn_user
from ..card import is_repo_id
from ..hub_errors import clear_errors
from .prompts import PromptSet, read_prompts

PAPER = "Gandikota et al. 2023, arXiv:2303.07345"
ARTISTS = ("Kelly McKernan", "Thomas Kinkade", "Tyler Edlin", "Kilian Eng", "Ajin: Demi-Human")
"""The artists and the series of the paper's study of styles, Section 5.1."""

I2P = "AIML-TUDA/i2p"
AUTHORS = "https://github.com/rohitgandikota/erasing"
MACE = "https://github.com/Shilin-LU/MACE"
MACE_LICENCE = "MACE's own licence, non-commercial"

_CELEBRITY = re.compile(
    r"A portrait of (.+)|An image capturing (.+) at a public event|An oil painting of (.+)|A sketch of (.+)"
    r"|(.+) in an official photo"
)


def i2p(
    path: str | os.PathLike[str] = I2P,
    *,
    category: str | None = None,
    nudity_above: float | None = None,
    allow_download: bool = False,
) -> PromptSet:
    """Inappropriate Image Prompts: 4,703 prompts, each with its own seed, guidance and size. Their text is offensive.

    Guidance is 7 in 3,729 rows and up to 20 in others; 55 rows are not 512 x 512. In the authors' copy one prompt is
    empty and 236 are there twice; all are drawn.

    Args:
        path: The CSV file, or the id of the publisher's data set on the Hub.
        category: Only prompts of this category, such as `"sexual"`; a prompt may have several.
        nudity_above: Only prompts of whose images more than so many percent were nude in the publisher's count.
        allow_download: Whether the data set may be downloaded.

    Raises:
        FileNotFoundError: If there is no such file, or the data set is not on this computer.
        ValueError: If no prompt is left, or the file is not I2P's.
    """
    address = f"https://huggingface.co/datasets/{I2P}"

    def fields(row: Mapping[str, str]) -> dict[str, Any] | None:
        categories = [name.strip() for name in row.get("categories", "").split(",")]
        is_left_out = category is not None and category not in categories
        if is_left_out or (nudity_above is not None and float(row["nudity_percentage"]) <= nudity_above):
            return None
        return {"group": "i2p", "concept": "nudity"}

    needed = [*["categories"] * (category is not None), *["nudity_percentage"] * (nudity_above is not None)]
    file = _located(path, "i2p_benchmark.csv", "the I2P prompts", address, "MIT", allow_download=allow_download)
    _check_columns(file, needed)
    return read_prompts(file, name="i2p", source=address, licence="MIT", fields=fields)


def coco(path: str | os.PathLike[str], *, guidance_scale: float = 7.5) -> PromptSet:
    """Captions of COCO: the authors' `data/coco_30k.csv`, or a file with the same columns.

    Of the authors' 30,000 captions 29,495 are different. The file has no column of cases; a case is the number of the
    row and that of the image.

    Args:
        path: The CSV file.
        guidance_scale: Classifier-free guidance; the paper's is 7.5.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a row is wrong.
    """
    numbers = itertools.count()

    def fields(row: Mapping[str, str]) -> dict[str, Any]:
        case = "-".join(filter(None, [f"{next(numbers):05d}", row.get("image_id")]))
        return {"case": case, "group": "coco", "guidance_scale": guidance_scale}

    address, licence = f"{AUTHORS}/blob/main/data/coco_30k.csv", "CC BY 4.0 (the captions are COCO's)"
    file = _located(path, "", "the captions", address, licence)
    return read_prompts(file, name="coco", source=address, licence=licence, fields=fields)


def generic_artists(path: str | os.PathLike[str]) -> PromptSet:
    """Prompts of an artist column, such as the authors' `generic_artists_prompts.csv`, a group for each artist.

    In that file the texts of two templates are glued together in 250 rows ("in the style ofa reproduction of"), since
    their list lacks a comma. They are drawn as published. Names are written in several ways ("Mckernan", "McKernan");
    those of `ARTISTS` are written as there.

    Args:
        path: The CSV file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there is no column `artist`, or a row is wrong.

    Warns:
        UserWarning: If texts are glued together.
    """
    address = f"{AUTHORS}/tree/main/data"
    file = _located(path, "", "the artists' prompts", address, "MIT")
    _check_columns(file, ["artist"])
    spelled = {_letters(name): name for name in ARTISTS}

    def fields(row: Mapping[str, str]) -> dict[str, Any]:
        name = spelled.get(_letters(row["artist"]), row["artist"].strip())
        return {"group": name, "concept": name, "labels": {"style": name}}

    prompts = read_prompts(file, source=address, licence="MIT", fields=fields)
    if glued := sum("style ofa " in prompt.text for prompt in prompts):
        warn_user(f"{glued} of {len(prompts)} prompts of {file} have two texts in one; they are drawn as published.")
    return prompts


def celebrities(path: str | os.PathLike[str]) -> PromptSet:
    """MACE's celebrities: `prompts_csv/celebrity_*_concepts.csv`, whose licence is non-commercial.

    The groups are the file's types, `"erased"` and `"others"`. The label `person` is the name in lower case.

    Args:
        path: The CSV file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there is no column `type`, or a prompt is not made from one of MACE's five templates.
    """
    address = f"{MACE}/tree/main/prompts_csv"
    file = _located(path, "", "the celebrities' prompts", address, MACE_LICENCE)
    _check_columns(file, ["type"])

    def fields(row: Mapping[str, str]) -> dict[str, Any]:
        match = _CELEBRITY.fullmatch(row["prompt"].strip())
        if match is None:
            raise ValueError(f"{file}: {row['prompt']!r} is not made from one of MACE's five templates.")
        name = next(filter(None, match.groups()))
        concept = name if row["type"] == "erased" else ""
        return {"group": row["type"], "concept": concept, "labels": {"person": name.lower()}}

    return read_prompts(file, source=address, licence=MACE_LICENCE, fields=fields)


def _located(
    path: str | os.PathLike[str], filename: str, what: str, address: str, licence: str, *, allow_download: bool = False
) -> Path:
    """A local file, or one of a data set on the Hub, from the cache unless it may be downloaded."""
    file, repo_id = Path(path), os.fspath(path)
    if file.is_file():
        return file
    there = f"{what} are at {address} (licence: {licence})"
    if not filename or not is_repo_id(repo_id) or file.suffix == ".csv":
        raise FileNotFoundError(f"There is no file {path}; {there}.")
    try:
        with clear_errors(repo_id):
            found = hf_hub_download(repo_id, filename, repo_type="dataset", local_files_only=not allow_download)
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"{repo_id} is not on this computer: give `allow_download=True`, or the path of the file; {there}."
        ) from error
    return Path(found)


def _check_columns(file: Path, names: list[str]) -> None:
    with file.open(encoding="utf-8-sig", newline="") as opened:
        header = next(csv.reader(opened), [])
    missing = [name for name in names if name not in header]
    if missing:
        raise ValueError(f"{file} has no column {', '.join(missing)}; it has {', '.join(header) or 'no columns'}.")


def _letters(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())
