"""`Folder`: the files of an evaluation.

    images/<method>/<case>.png         an image
    images/<method>/manifest.json      all that the images of the method depend on
    judgements/<method>/<judge>.json   what a judge found in each image, and what that depends on
    report.json, report.md, report.html, report.png

What exists is not made again. Files appear whole, so an evaluation that was killed goes on where it was. A manifest
that differs is an error: the images are those of another evaluation.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from PIL import Image

from ..files import remove_leftovers, whole, write_text
from .judges.base import Finding
from .spelling import slug


class Folder:
    """The files of an evaluation.

    Args:
        path: The folder; it is created if it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def check(self) -> None:
        """Refuse a path where an evaluation cannot be written.

        Raises:
            FileExistsError: If it is a file, or a folder with something that is not an evaluation.
            OSError: If the folder cannot be made, or nothing can be written in it.
        """
        if self.path.is_file():
            raise FileExistsError(f"{self.path} is a file; give a folder.")
        contents = [] if not self.path.is_dir() else [path.name for path in self.path.iterdir()]
        is_ours = "erasure.json" not in contents and (
            (self.path / "judgements").is_dir() or any((self.path / "images").glob("*/manifest.json"))
        )
        if contents and not is_ours:
            raise FileExistsError(f"{self.path} contains something that is not an evaluation; give a new folder.")
        try:
            with TemporaryFile(dir=_existing(self.path)):
                pass
        except OSError as error:
            raise type(error)(error.errno, f"{self.path} cannot be written: {error.strerror}") from error

    def images(self, method: str) -> Path:
        """The folder of a method's images."""
        return self.path / "images" / slug(method)

    def begin(self, method: str, manifest: Mapping[str, Any]) -> None:
        """Say what the images of a method depend on.

        Raises:
            ValueError: If there are images that depend on something else.
        """
        folder = self.images(method)
        file = folder / "manifest.json"
        manifest = json.loads(json.dumps(manifest))
        remove_leftovers(folder)
        remove_leftovers(self.path)
        if file.is_file():
            before = json.loads(file.read_text(encoding="utf-8"))
            if before != manifest:
                differing = sorted(key for key in {*before, *manifest} if before.get(key) != manifest.get(key))
                raise ValueError(
                    f"{folder} has images of another evaluation: {', '.join(differing)} differ. Give another folder, "
                    "or delete this one."
                )
        elif folder.is_dir() and any(folder.iterdir()):
            raise ValueError(f"{folder} contains files without a manifest; give another folder.")
        else:
            write_text(file, json.dumps(manifest, indent=1, sort_keys=True) + "\n")

    def missing(self, method: str, cases: Iterable[str]) -> list[str]:
        """The cases that have no image yet."""
        folder = self.images(method)
        return [case for case in cases if not (folder / f"{case}.png").is_file()]

    def write_image(self, method: str, case: str, image: Image.Image) -> None:
        """Write an image, whole or not at all.

        Raises:
            OSError: If it cannot be written, such as on a full disk.
        """
        file = self.images(method) / f"{case}.png"
        try:
            with whole(file) as temporary:
                image.convert("RGB").save(temporary, format="PNG")
        except OSError as error:
            raise OSError(error.errno, f"{file} cannot be written ({error.strerror}); what was drawn stays.") from error

    def read_image(self, method: str, case: str) -> Image.Image | None:
        """An image, RGB; `None` if its file is damaged."""
        try:
            with Image.open(self.images(method) / f"{case}.png", formats=["PNG"]) as opened:
                return opened.convert("RGB")
        except FileNotFoundError:
            raise
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return None

    def read_findings(
        self, method: str, judge: str, depends: Mapping[str, Any] | None = None
    ) -> dict[str, tuple[Finding, ...]] | None:
        """What a judge found, by case; `None` if it has not judged, or something that it depends on has changed.

        Args:
            method: Name of the method.
            judge: Name of the judge.
            depends: What it depends on; `None` reads what is there.
        """
        file = self._findings(method, judge)
        if not file.is_file():
            return None
        stored = json.loads(file.read_text(encoding="utf-8"))
        if depends is not None and stored["depends"] != json.loads(json.dumps(depends)):
            return None
        return {case: tuple(Finding(*pair) for pair in pairs) for case, pairs in stored["findings"].items()}

    def write_findings(
        self, method: str, judge: str, depends: Mapping[str, Any], findings: Mapping[str, Sequence[Finding]]
    ) -> None:
        """Write what a judge found, and what that depends on."""
        stored = {"depends": depends, "findings": {case: [list(f) for f in found] for case, found in findings.items()}}
        write_text(self._findings(method, judge), json.dumps(stored) + "\n")

    def _findings(self, method: str, judge: str) -> Path:
        return self.path / "judgements" / slug(method) / f"{slug(judge)}.json"

    def delete_images(self) -> None:
        """Delete the images of all methods. Findings, the report and whatever else is there stay."""
        for manifest in (self.path / "images").glob("*/manifest.json"):
            shutil.rmtree(manifest.parent)
        if (self.path / "images").is_dir() and not any((self.path / "images").iterdir()):
            (self.path / "images").rmdir()


def check_names(what: str, names: Sequence[str]) -> None:
    """Refuse names that would share a file.

    Raises:
        ValueError: If two names have the same file name.
    """
    by_slug: dict[str, str] = {}
    for name in names:
        other = by_slug.setdefault(slug(name), name)
        if names.count(name) > 1 or other != name:
            raise ValueError(f"Two {what} have the name {name!r}; give one of them another.")


def _existing(path: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())
