"""`make_study`: a page that shows pictures blind and collects ratings, and its key.

The page is one HTML file, which needs no network. It knows a candidate by its id, the digest of seed, artist and
pixels, and lists candidates in the order of their ids, so that it tells nothing about conditions. Each participant's
browser shuffles them.
"""

from __future__ import annotations

import html
import json
import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any

from ..arguments import check_flag, integer_from
from ..files import whole
from .folder import Artist, Picture, read_folder
from .key import Candidate, Key, read_key

TITLE = "Who made this picture?"
QUESTION = "The references are by one artist. Is this picture by the same artist?"


@dataclass(frozen=True)
class Study:
    """A study that was made.

    Attributes:
        page: The HTML file, for participants.
        key_file: The CSV file of the key, which participants must not have.
        key: The key.
    """

    page: Path
    key_file: Path
    key: Key


def make_study(
    folder: str | Path,
    output: str | Path,
    *,
    title: str = TITLE,
    question: str = QUESTION,
    references: int = 5,
    seed: int = 0,
    blur: bool = False,
) -> Study:
    """Make the page of a study, and beside it the key: `study.html` and `study-key.csv`.

    The same pictures, `references` and `seed` give the same study again, under any title, question and
    names of conditions.

    Args:
        folder: A folder for each artist, which contains the folder `references` and a folder for each condition.
        output: The page, `.html`.
        title: Title of the page.
        question: What participants answer, from 1, certainly not, to 5, certainly.
        references: How many references are shown, 1 or more. If an artist has more, they are drawn with `seed`.
        seed: Of that draw and of the ids, 0 or more. With another seed, the same pictures are another study.
        blur: Whether pictures are blurred until they are clicked.

    Raises:
        FileNotFoundError: If there is no such folder.
        FileExistsError: If the key of another study is there.
        TypeError: If a value has the wrong type.
        ValueError: If a value is out of range, something is missing or not in its place, a picture cannot be read, or
            an artist has the same picture twice.
    """
    page = Path(output)
    if page.suffix.lower() != ".html":
        raise ValueError(f"`output` must end in .html, got {output}.")
    number, seed = integer_from(1)("references", references), integer_from(0)("seed", seed)
    options = {
        "title": _text("title", title),
        "question": _text("question", question),
        "blur": check_flag("blur", blur),
    }
    artists = read_folder(Path(folder), number)
    shown = [tuple(Random(f"{seed} {artist.name}").sample(artist.references, number)) for artist in artists]
    key, items = _candidates(Path(folder), artists, shown, seed)
    key_file = page.with_name(f"{page.stem}-key.csv")
    _check_free(key_file, key)
    data = {
        "study": key.study,
        **options,
        "references": [list(map(_uri, pictures)) for pictures in shown],
        "items": items,
    }
    with whole(page) as new_page, whole(key_file) as new_key:
        new_page.write_text(_fill(data), encoding="utf-8")
        new_key.write_text(key.to_csv(), encoding="utf-8")
    return Study(page, key_file, key)


def _candidates(
    folder: Path, artists: Sequence[Artist], shown: Sequence[Sequence[Picture]], seed: int
) -> tuple[Key, list[dict[str, Any]]]:
    """The key, and what the page has of each candidate, both in the order of ids."""
    candidates: dict[str, Candidate] = {}
    items: dict[str, dict[str, Any]] = {}
    for group, artist in enumerate(artists):
        for condition, pictures in artist.candidates.items():
            for picture in pictures:
                item = f"p{_digest(seed, artist.name, picture.digest)}"
                path = picture.path.relative_to(folder).as_posix()
                candidates[item] = Candidate(artist.name, condition, path)
                items[item] = {"id": item, "group": group, "picture": _uri(picture)}
    ids = sorted(items)
    digests = [[picture.digest for picture in pictures] for pictures in shown]
    study = f"s{_digest(digests, ids)}"
    return Key(study, {item: candidates[item] for item in ids}), [items[item] for item in ids]


def _check_free(key_file: Path, key: Key) -> None:
    """Keep the key of another study: without it, ratings that were collected are worth nothing."""
    if not key_file.exists():
        return
    try:
        same = read_key(key_file).study == key.study
    except ValueError:
        same = False
    if not same:
        raise FileExistsError(f"{key_file} is the key of another study; give another name, or remove it.")


def _fill(data: dict[str, Any]) -> str:
    """The page with its title and its data."""
    template = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    # `<` could end the script.
    script = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    texts = {"title": html.escape(data["title"]), "data": script}
    return re.sub(r"\{\{(title|data)\}\}", lambda match: texts[match[1]], template)


def _uri(picture: Picture) -> str:
    return "data:image/jpeg;base64," + b64encode(picture.jpeg).decode()


def _digest(*values: object) -> str:
    return sha256(json.dumps(values).encode()).hexdigest()[:12]


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"`{name}` must be a string, got {value!r} of type {type(value).__name__}.")
    if not value.strip():
        raise ValueError(f"`{name}` is empty: got {value!r}; give its words.")
    return value
