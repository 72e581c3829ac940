"""The app's folder. Each visitor has a folder in it, and nothing outside of that is read or written for them.

    <output>/<visitor>/erasures/<name>/    an erasure, saved as soon as it is trained
    <output>/<visitor>/stack.json          the visitor's stack: erasures with their scales
    <output>/<visitor>/runs/<name>/        what a training writes while it runs
    <output>/<visitor>/reports/<name>/     an evaluation
    <output>/<visitor>/exports/<name>      a file for another tool
    <output>/.downloads                    copies that browsers fetch; old ones are deleted

A visitor is a random number of 128 bits, which only their browser knows.
"""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from ..names import check_adapter_name, check_new_name, default_name
from ..stacks.entry import STACK_NAME
from ..stacks.recipe import Recipe

DOWNLOADS = ".downloads"
_VISITOR = re.compile(r"[0-9a-f]{32}")


def new_visitor() -> str:
    """The id of a new visitor."""
    return secrets.token_hex(16)


def is_visitor(value: object) -> bool:
    """Whether a value that a browser sent can be the id of a visitor."""
    return isinstance(value, str) and _VISITOR.fullmatch(value) is not None


class Shelf:
    """The files of one visitor.

    Args:
        output: The app's folder.
        visitor: The visitor.

    Raises:
        ValueError: If this is not the id of a visitor.
    """

    def __init__(self, output: Path, visitor: str) -> None:
        if not is_visitor(visitor):
            raise ValueError("The page does not know its visitor; load it again.")
        self.path = output / visitor

    def names(self) -> list[str]:
        """The erasures that are saved, the newest last."""
        files = (self.path / "erasures").glob("*/erasure.json")
        folders = sorted((file.parent for file in files), key=lambda folder: folder.stat().st_ctime)
        return [folder.name for folder in folders if not folder.name.startswith(".")]

    def erasure(self, name: object) -> Path:
        """The folder of an erasure that is saved.

        Raises:
            ValueError: If there is none of this name.
        """
        if name not in self.names():
            raise ValueError(f"There is no erasure {name!r} here; there are {', '.join(self.names()) or 'none yet'}.")
        return self.path / "erasures" / str(name)

    def free_name(self, name: str) -> str:
        """The name, or the first of `name-2`, `name-3` and so on that no erasure and no run has.

        Raises:
            TypeError: If it is not a string.
            ValueError: If an adapter or a file cannot have it.
        """
        check_new_name(name)
        names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        return next(free for free in names if not any((self.path / kind / free).exists() for kind in _NAMED))

    def name_for(self, concept: str) -> str:
        """The name of a new erasure of a concept."""
        return self.free_name(default_name([concept]))

    def place(self, kind: str, name: str) -> Path:
        """Where something new of a kind is written: `"erasures"`, `"runs"`, `"reports"` or `"exports"`.

        Raises:
            TypeError: If the name is not a string.
            ValueError: If a file cannot have the name.
        """
        assert kind in (*_NAMED, "exports")
        check_adapter_name(name)
        return self.path / kind / name

    def scales(self) -> dict[str, float]:
        """The visitor's stack: scales of erasures by name; 0 for those that are not in it."""
        names = self.names()
        if not (self.path / STACK_NAME).is_file():
            return dict.fromkeys(names, 1.0)
        recipe = Recipe.from_pretrained(self.path / STACK_NAME)
        scales = {Path(entry.source).name: entry.scale for entry in recipe.entries}
        return {name: scales.get(name, 1.0) for name in names}

    def keep(self, scales: Mapping[str, float]) -> None:
        """Save the visitor's stack.

        Raises:
            ValueError: If there is no erasure of a name.
        """
        if scales:
            Recipe.of({self.erasure(name): scale for name, scale in scales.items()}).save(self.path)

    def sources(self, scales: Mapping[str, float]) -> dict[str, float]:
        """Scales by folder, for a call: the erasures of a stack whose scale is not 0.

        Raises:
            ValueError: If there is none, or none of a name.
        """
        sources = {str(self.erasure(name)): float(scale) for name, scale in scales.items() if scale}
        if not sources:
            raise ValueError("The stack is empty: train an erasure first, or raise a scale above 0.")
        return sources


_NAMED = ("erasures", "runs", "reports")
