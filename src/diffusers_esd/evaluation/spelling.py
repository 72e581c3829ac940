"""How a concept is written: what two spellings of it share, and a name of a file for it."""

from __future__ import annotations

import re


def key(label: str) -> str:
    """What two spellings of a label share: no case, no article, single spaces."""
    words = label.casefold().replace("_", " ").split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in ("a", "an", "the") else words)


def slug(name: str) -> str:
    """A name of a file that every file system takes."""
    return re.sub(r"[^a-z0-9._+-]+", "-", name.lower()).strip("-.") or "unnamed"
