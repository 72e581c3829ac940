"""What is done in parallel processes: trainings, and the parts of the report."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from frontier.work import run

from .erasures import Trained
from .parts import Part, parts

_SECONDS = 110
"""Of a training in one process of one thread, on the machine that made the page of the documentation."""


def train(chosen: Sequence[Part], cache: Path, processes: int) -> None:
    """Train what is not in the cache, and say how long that will take."""
    needed = {trained.folder(cache): trained for part in chosen for trained in part.needs.values()}
    missing = [trained for trained in needed.values() if not trained.is_kept(cache)]
    if missing:
        minutes = len(missing) * _SECONDS / 60 / processes
        print(f"{len(missing)} of {len(needed)} erasures are trained first: about {minutes:.0f} minutes", flush=True)
        run([(trained.name, partial(_train, trained, cache)) for trained in missing], processes)


def measure(chosen: Sequence[Part], objects: Sequence[str], cache: Path, output: Path, processes: int) -> None:
    """Evaluate the parts, the longest first."""
    # Attacks learn, which takes longer than to draw.
    by_length = sorted(chosen, key=lambda part: (not part.title.startswith("Attacks"), -len(part.needs)))
    run([(part.title, partial(_measure, part.title, objects, cache, output)) for part in by_length], processes)


def _train(trained: Trained, cache: Path) -> None:
    trained.read(cache)


def _measure(title: str, objects: Sequence[str], cache: Path, output: Path) -> None:
    # By its title: a part has functions, which cannot be sent to another process.
    next(part for part in parts(objects) if part.title == title).measure(cache, output)
