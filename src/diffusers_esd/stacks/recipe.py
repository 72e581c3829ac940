"""`Recipe`: saved erasures and their scales, as a small file, `stack.json`, that can be shared.

    {"format": "diffusers-esd stack", "version": 1,
     "erasures": [{"source": "me/no-cat", "revision": "v1", "scale": 0.8}, {"source": "./no-dog", "scale": 1.0}]}

A source is a Hub id, `user/name`, or a local path, relative to the folder of the file. `revision` is a commit, a tag or
a branch of the Hub; null means the newest commit. A recipe can be used wherever an erasure can; it does not contain
another recipe.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .. import hub
from ..card import recipe_card
from ..files import WEIGHTS_NAME, write_text
from .entry import STACK_NAME, RecipeEntry
from .scales import with_scales

FORMAT = "diffusers-esd stack"
VERSION = 1


@dataclass(frozen=True)
class Recipe:
    """Saved erasures and their scales.

    Attributes:
        entries: The erasures; `Recipe.of` makes them from paths and Hub ids.
    """

    entries: tuple[RecipeEntry, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "entries", tuple(self.entries))
        if not self.entries:
            raise ValueError("A recipe must have at least one erasure, got none.")

    @classmethod
    def of(cls, erasures: Any) -> Recipe:
        """A recipe of saved erasures.

        Args:
            erasures: One source, a list of sources (scale 1), or a mapping of sources to scales. A source is a folder,
                a file, or a Hub id (`user/name` or `user/name@revision`).

        Raises:
            TypeError: If a source is an `Erasure`, which must be saved first, or a scale is not a number.
            ValueError: If there is no source, a source is a recipe, or a scale is not finite.
            FileNotFoundError: If a source is neither an erasure on this computer nor a Hub id.

        Warns:
            UserWarning: If a scale is negative.
        """
        entries = []
        for source, scale in with_scales(erasures):
            if isinstance(source, Recipe):
                raise ValueError("A recipe cannot contain another recipe; give the erasures of that recipe.")
            if not isinstance(source, str | os.PathLike):
                raise TypeError(
                    f"A recipe names saved erasures, got an {type(source).__name__} in memory. Save it with "
                    "erasure.save_pretrained(folder) and give the folder."
                )
            text = os.fspath(source)
            if Path(text).exists():  # here, and not on the Hub
                text = os.path.abspath(text)
            entry = RecipeEntry.of(text, scale, folder=Path.cwd())
            if entry.is_local:
                entry.check_path()
            entries.append(entry)
        return cls(tuple(entries))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the recipe, whole or not at all. Local paths are written relative to the folder of the file.

        Args:
            path: A file whose name ends in `.json`, or a folder, which gets a `stack.json`. A recipe that is there is
                replaced.

        Returns:
            The file.

        Raises:
            FileExistsError: If the file exists and is not a recipe, or the folder has an erasure, which would be read
                instead.
        """
        file = check_file(path)
        entries = [entry.to_dict(file.parent) for entry in self.entries]
        values = {"format": FORMAT, "version": VERSION, "erasures": entries}
        return write_text(file, json.dumps(values, indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike[str], *, token: str | bool | None = None, revision: str | None = None
    ) -> Recipe:
        """Read a recipe, without reading its erasures.

        Args:
            path: The file, its folder, or the Hub id, `user/name` or `user/name@revision`.
            token: For a private repository; `None` means the one that `hf auth login` stored. The erasures are read
                later, with the stored one.
            revision: Branch, tag or commit of the repository.

        Raises:
            FileNotFoundError: If there is no such file or repository.
            ValueError: If it is damaged, not a recipe, of a newer version, or if it is on the Hub and names a local
                path.
        """
        file = hub.locate(path, STACK_NAME, token=token, revision=revision)
        return read_recipe(file, is_local=Path(path).exists())

    def pinned(self, *, token: str | bool | None = None) -> Recipe:
        """The recipe with a revision for every entry: the commit that an entry without one has now.

        Args:
            token: For private repositories; `None` means the one that `hf auth login` stored.

        Raises:
            ValueError: If an entry is a local path.
            FileNotFoundError: If there is no such repository or revision.
            ConnectionError: If the Hub cannot be reached.
        """
        local = [entry.source for entry in self.entries if entry.is_local]
        if local:
            raise ValueError(
                f"A recipe on the Hub names erasures on the Hub, got {', '.join(local)}. Push it first, with "
                "erasure.push_to_hub('user/name'), and name it so in the recipe."
            )
        commits = [hub.commit_of(entry.source, token=token, revision=entry.revision) for entry in self.entries]
        pairs = zip(self.entries, commits, strict=True)
        return Recipe(tuple(replace(entry, revision=entry.revision or commit) for entry, commit in pairs))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str | None = None,
    ) -> str:
        """Publish on the Hugging Face Hub: `stack.json`, every entry with a revision (`pinned`), and a card.

        Args:
            repo_id: `user/name`; it is created if it does not exist. If it has a card, only our part changes.
            private: Whether a new repository is private; `None` means the account's default.
            token: Of the account; `None` means the one that `hf auth login` stored.
            commit_message: Of the commit.

        Returns:
            The commit's address.

        Raises:
            ValueError: If `repo_id` cannot be an id or contains an erasure, or an entry is a local path.
            FileNotFoundError: If an entry is not on the Hub.
            ConnectionError: If the Hub cannot be reached.
        """
        hub.check_repo_id(repo_id)
        pinned = self.pinned(token=token)
        if hub.contains(repo_id, WEIGHTS_NAME, token=token):
            raise ValueError(f"{repo_id!r} contains an erasure, which would be read instead; give another repository.")
        with TemporaryDirectory() as temporary:
            folder = Path(temporary)
            pinned.save(folder)
            rows = [(entry.source, entry.revision, entry.scale) for entry in pinned.entries]
            write_text(folder / "README.md", recipe_card(repo_id, rows))
            message = commit_message or f"Recipe of {len(pinned.entries)} erasures"
            return hub.publish(folder, repo_id, private=private, token=token, message=message)


def check_file(path: str | os.PathLike[str]) -> Path:
    """The file in which a recipe would be saved.

    Raises:
        FileExistsError: If the file exists and is not a recipe, or the folder has an erasure.
    """
    file = Path(path)
    if file.suffix.lower() != ".json" or file.is_dir():
        if (file / WEIGHTS_NAME).exists():
            raise FileExistsError(f"{file} contains an erasure, which would be read instead; give another folder.")
        file = file / STACK_NAME
    if file.exists():
        try:
            read_recipe(file)
        except ValueError as error:
            raise FileExistsError(f"{file} exists and is not a recipe; give another path.") from error
    return file


def read_recipe(file: Path, *, is_local: bool = True) -> Recipe:
    """The recipe in a file.

    Args:
        file: The file.
        is_local: Whether the file is the user's own. One from the Hub must not name local paths.

    Raises:
        ValueError: If it is damaged, not a recipe, of a newer version, or names a local path that is refused.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged: it is not JSON ({error}).") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ValueError(f"{file} is not a recipe: `format` must be {FORMAT!r}.")
    if isinstance(values.get("version"), bool) or values.get("version") != VERSION:
        raise ValueError(
            f"{file} has version {values.get('version')!r}, and this package reads version {VERSION}; update "
            "diffusers-esd, or fetch the file again."
        )
    entries = values.get("erasures")
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{file} is damaged: `erasures` must be a list of at least one erasure, got {entries!r}.")
    folder = file.parent if is_local else None
    read: list[RecipeEntry] = []
    for i, entry in enumerate(entries):
        try:
            read.append(RecipeEntry.from_dict(entry, folder))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{file} is damaged: erasures[{i}]: {error}") from error
    return Recipe(tuple(read))
