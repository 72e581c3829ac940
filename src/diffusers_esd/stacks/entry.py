"""`RecipeEntry`: one erasure of a recipe, by its Hub id or its path, and how that is written in `stack.json`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import hub
from ..arguments import check_scale
from ..files import WEIGHTS_NAME
from ..json_values import number, optional, text

if TYPE_CHECKING:
    from ..erasure import Erasure

STACK_NAME = "stack.json"
NAMES = (WEIGHTS_NAME, STACK_NAME)
"""Files that make a folder or a repository a source, in the order in which they are looked for."""

_READERS = {"source": text, "revision": optional(text), "scale": number}


@dataclass(frozen=True)
class RecipeEntry:
    """One saved erasure and its scale.

    Attributes:
        source: The Hub id, `user/name`, or the absolute path of a folder or file.
        revision: Commit, tag or branch of the Hub; `None` means the newest commit.
        scale: Its scale; 1 is the erasure as trained.

    Raises:
        TypeError: If the scale is not a number.
        ValueError: If the source is neither, a path has a revision, the revision is empty, or the scale is not finite.
    """

    source: str
    revision: str | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.is_local and self.revision is not None:
            raise ValueError(f"`revision` is for erasures on the Hub, got {self.revision!r} for the path {self.source}")
        if not self.is_local and not hub.is_repo_id(self.source):
            raise ValueError(f"`source` must be a path, or the 'user/name' of the Hub, got {self.source!r}")
        if self.revision == "":
            raise ValueError(f"`revision` of {self.source!r} is empty; give a commit, a tag or a branch, or None")
        object.__setattr__(self, "scale", float(check_scale("scale", self.scale, warn=False)))

    def __str__(self) -> str:
        return f"{self.source}@{self.revision}" if self.revision else self.source

    @property
    def is_local(self) -> bool:
        """Whether the source is a path, not a Hub id."""
        return Path(self.source).is_absolute()

    def read(self) -> Erasure:
        """The erasure.

        Raises:
            FileNotFoundError: If there is no such erasure.
            ValueError: If it is damaged, or the source is itself a recipe.
        """
        # Here, so that a recipe can be shown without PyTorch.
        from ..erasure import Erasure

        if self.is_local:
            return Erasure.from_pretrained(self.check_path())
        # Not through Erasure.from_pretrained alone: a local folder of the same name is not meant.
        file = hub.download(self.source, NAMES, revision=self.revision)
        return Erasure.from_pretrained(_check_file(file, self.source))

    def check_path(self) -> Path:
        """The file of a local erasure.

        Raises:
            FileNotFoundError: If there is no erasure at the path.
            ValueError: If it is a recipe.
        """
        return _check_file(hub.locate(self.source, NAMES), self.source)

    def to_dict(self, folder: Path) -> dict[str, Any]:
        """The entry as it is written in a file of a folder.

        A local path is relative to the folder, and begins with a dot, so that it cannot be taken for a Hub id.
        """
        source = self.source
        if self.is_local:
            # The real paths: a relative path through a symbolic link would depend on how the file is reached.
            relative = Path(os.path.relpath(os.path.realpath(self.source), os.path.realpath(folder))).as_posix()
            source = relative if relative.startswith("../") else f"./{relative}"
        return {"source": source, "revision": self.revision, "scale": self.scale}

    @classmethod
    def from_dict(cls, values: Any, folder: Path | None) -> RecipeEntry:
        """The entry of a file.

        Args:
            values: The entry as JSON types.
            folder: The folder of the file; `None` if it is of the Hub, where a local path is refused.

        Raises:
            TypeError: If a value has a wrong type.
            ValueError: If a key is unknown or missing, or a value is not allowed.
        """
        if not isinstance(values, dict):
            raise TypeError(f"expected an object, got {values!r}")
        for key in values.keys() - _READERS.keys():
            raise ValueError(f"unknown key {key!r}; expected `source`, `revision` and `scale`")
        for key in ("source", "scale"):
            if key not in values:
                raise ValueError(f"`{key}` is missing")
        checked = {}
        for key, value in values.items():
            try:
                checked[key] = _READERS[key](value)
            except TypeError as error:
                raise TypeError(f"`{key}`: {error}") from error
        return cls.of(**checked, folder=folder)

    @classmethod
    def of(cls, source: str, scale: float, *, folder: Path | None, revision: str | None = None) -> RecipeEntry:
        """The entry of a source.

        Args:
            source: A path, or a Hub id: `user/name` or `user/name@revision`. What can be a Hub id is one: a path of
                that form begins with `./`.
            scale: Its scale.
            folder: What a path is relative to; `None` if a path is refused.
            revision: Commit, tag or branch of the Hub.

        Raises:
            ValueError: If the source is neither or refused, or the revision is given twice.
        """
        if not source:
            raise ValueError("`source` is empty; give a path or the 'user/name' of the Hub")
        repo_id, inline = hub.split_revision(source)
        if hub.is_repo_id(repo_id) and not source.startswith(("./", "../")):
            if inline is not None and revision is not None:
                raise ValueError(f"{source!r} has a revision, and `revision` is {revision!r}; give one of them")
            return cls(repo_id, revision if inline is None else inline, scale)
        if folder is None:
            raise ValueError(f"a recipe on the Hub must name erasures on the Hub, got the path {source!r}")
        return cls(os.path.abspath(folder / source), revision, scale)


def _check_file(file: Path, source: str) -> Path:
    if file.suffix == ".json":
        raise ValueError(f"A recipe cannot contain another recipe, got {source}; give the erasures of that recipe.")
    return file
