"""The folder of a study: the pictures of each artist, as references and as candidates by condition.

    FOLDER/
      Van Gogh/           an artist, or any other concept; its name is not shown
        references/       pictures that are the artist's
        original/         a condition, with its candidates: other pictures of the artist
        similar artist/   a condition: pictures of another artist
        base/             a condition: pictures of the model
        esd-x/            a condition: pictures of the model after the erasure

Artists and conditions can have any names. Hidden files are left out; all other files must be pictures, in these places.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps

REFERENCES = "references"
_SIDE = 512  # pixels, the longer side at most
_QUALITY = 90  # of JPEG
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)

Files = dict[str, dict[str, list[Path]]]
"""Paths by artist and by the name of the folder they are in."""


@dataclass(frozen=True)
class Picture:
    """A picture as a page has it.

    Attributes:
        path: Its file.
        digest: Of its pixels, before it was resized.
        jpeg: A JPEG of at most 512 x 512 pixels, without metadata.
    """

    path: Path
    digest: str
    jpeg: bytes


@dataclass(frozen=True)
class Artist:
    """The pictures of one artist.

    Attributes:
        name: Name of the artist's folder.
        references: All pictures of `references`, sorted by path.
        candidates: The pictures of each condition, sorted by path.
    """

    name: str
    references: tuple[Picture, ...]
    candidates: dict[str, tuple[Picture, ...]]


def read_folder(folder: Path, references: int) -> tuple[Artist, ...]:
    """Read all pictures of a study.

    Args:
        folder: The folder.
        references: How many references each artist must have at least.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If something is not in its place or missing, a picture cannot be read, or an artist has the same
            picture twice.
    """
    files = _files(folder)
    _check_files(folder, files, references)
    pictures = _read_all(path for groups in files.values() for paths in groups.values() for path in paths)
    artists = []
    for name, groups in files.items():
        read = {group: tuple(pictures[path] for path in paths) for group, paths in groups.items()}
        _check_different(picture for group in read.values() for picture in group)
        artists.append(Artist(name, read.pop(REFERENCES), read))
    return tuple(artists)


def read_picture(file: Path) -> Picture:
    """Read a picture, upright and on white if it is transparent; of an animation, the first frame.

    Raises:
        OSError: If it cannot be read. Pillow raises ValueError, SyntaxError or others for some damaged files.
    """
    with Image.open(file) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGBA")
    # A new image does not have the comments and profiles of the file, which the JPEG would contain.
    plain = Image.new("RGB", image.size, "white")
    plain.paste(image, mask=image)
    digest = sha256(f"{plain.size} ".encode() + plain.tobytes()).hexdigest()
    plain.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    plain.save(buffer, "JPEG", quality=_QUALITY)
    return Picture(file, digest, buffer.getvalue())


def _files(folder: Path) -> Files:
    """All files; each is in a folder within a folder."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    return {
        artist.name: {group.name: _entries(group, folders=False) for group in _entries(artist, folders=True)}
        for artist in _entries(folder, folders=True)
    }


def _entries(folder: Path, *, folders: bool) -> list[Path]:
    """What a folder contains, sorted; hidden files are left out."""
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if wrong := [str(path) for path in entries if path.is_dir() != folders]:
        allowed = "folders" if folders else "pictures"
        raise ValueError(f"{folder} must contain {allowed} only; move or remove {', '.join(wrong)}.")
    return entries


def _check_files(folder: Path, files: Files, references: int) -> None:
    if not files:
        raise ValueError(f"{folder} is empty; it must contain a folder for each artist.")
    spelling: dict[str, str] = {}
    for artist, groups in files.items():
        number = len(groups.get(REFERENCES, []))
        if number < references:
            raise ValueError(
                f"{folder / artist / REFERENCES} must contain {references} pictures or more, got {number}; add some, "
                "or give a lower number of `references`."
            )
        if set(groups) == {REFERENCES}:
            raise ValueError(f"{folder / artist} must contain a folder of candidates, such as original or esd-x.")
        for group, paths in groups.items():
            if not paths:
                raise ValueError(f"{folder / artist / group} is empty; add pictures, or remove it.")
            if (other := spelling.setdefault(same_spelling(group), group)) != group:
                raise ValueError(f"The conditions {other!r} and {group!r} look like one; give both the same name.")


def same_spelling(condition: str) -> str:
    """A condition's name in lower case, and with a space for each space, hyphen or underscore."""
    return re.sub(r"[\s_-]+", " ", condition).strip().lower()


def _read_all(files: Iterable[Path]) -> dict[Path, Picture]:
    pictures, unreadable = {}, []
    for file in files:
        try:
            pictures[file] = read_picture(file)
        except _UNREADABLE as error:
            unreadable.append(f"{file} ({error})")
    if unreadable:
        raise ValueError(f"These files cannot be read as pictures: {'; '.join(unreadable)}. Replace or remove them.")
    return pictures


def _check_different(pictures: Iterable[Picture]) -> None:
    """The same picture twice would be rated twice, or be its own reference."""
    first: dict[str, Path] = {}
    for picture in pictures:
        other = first.setdefault(picture.digest, picture.path)
        if other != picture.path:
            raise ValueError(f"{other} and {picture.path} are the same picture; an artist must have each picture once.")
