"""The erasures of the report, each trained once and kept in a cache by everything that decides its weights."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from emoji_sd import OBJECTS, STYLES, load, phrase, plain, settings
from reproduce.ablation import ETAS, GROUPS

from diffusers_esd import Erasure, ESDConfig, ESDTrainer
from diffusers_esd.base_model import fingerprint

ABLATED = ("cat", "mono")


@dataclass(frozen=True)
class Trained:
    """An erasure that the report needs.

    Attributes:
        name: Of the adapter.
        concept: What is erased.
        fields: Fields of `ESDConfig`.
    """

    name: str
    concept: str
    fields: dict[str, Any] = field(default_factory=dict)

    def folder(self, cache_folder: Path) -> Path:
        """Where it is kept: the name, and a digest of concept, configuration and base weights."""
        facts = [self.name, self.concept, ESDConfig(**self.fields).to_dict(), _base()]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return cache_folder / f"{self.name}-{digest[:16]}"

    def is_kept(self, cache_folder: Path) -> bool:
        """Whether it was trained before."""
        return (self.folder(cache_folder) / "erasure.json").is_file()

    def read(self, cache_folder: Path) -> Erasure:
        """The erasure; it is trained and saved if it was not before."""
        folder = self.folder(cache_folder)
        if not self.is_kept(cache_folder):
            pipe = load()
            pipe.set_progress_bar_config(disable=True)
            ESDTrainer(pipe, **self.fields).erase(self.concept, name=self.name).save_pretrained(folder)
        return Erasure.from_pretrained(folder)


@cache
def _base() -> str:
    return fingerprint(load().unet)


def of_object(word: str, group: str = "esd-u", **changes: Any) -> Trained:
    """An object, with the small model's settings."""
    fields = {**settings("esd-x" if group == "esd-x" else "esd-u"), "group": group, **changes}
    return Trained(f"no-{word}", phrase(word), fields)


def of_style(style: str, group: str = "esd-x", **changes: Any) -> Trained:
    """A style, with the small model's settings."""
    return Trained(f"no-{style}", f"art in {style} style", {**settings("esd-x", style=True), "group": group, **changes})


def ablation() -> dict[tuple[str, str, float], Trained]:
    """By what is erased, the group and eta: the paper's training, in which nothing else differs."""
    return {
        (word, name, eta): Trained(
            f"no-{word}",
            f"art in {word} style" if word in STYLES else phrase(word),
            {**plain("esd-x"), "group": group, "eta": eta},
        )
        for word in ABLATED
        for name, group in GROUPS.items()
        for eta in ETAS
    }


PARTIAL = Trained(
    "cat-not-mono",
    "art in mono style",
    {**settings("esd-x", style=True), "erase_from": "a cat in mono style", "stop_at_alignment": None},
)
"""An attribute of one object: the style of the cat, and of nothing else."""


def everything() -> list[Trained]:
    """All erasures of the report."""
    return [
        *[of_object(word) for word in OBJECTS],
        *[of_style(style) for style in STYLES],
        of_object("cat", "esd-x"),
        of_object("cat", "full"),
        *ablation().values(),
        PARTIAL,
    ]
