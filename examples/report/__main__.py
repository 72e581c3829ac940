"""The command: train what is missing, evaluate, and write the page."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from emoji_sd import OBJECTS
from frontier.work import run

from diffusers_esd import Report
from diffusers_esd.files import write_text

from .erasures import Trained
from .page import written
from .parts import Part, parts

_SECONDS = 110
"""Of a training, in one process of one thread, on the machine that made the page of the documentation."""


def main() -> None:
    """All parts, from start to end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("report-output"), help="images, findings and report.html")
    parser.add_argument("--cache", type=Path, default=Path(".report-cache"), help="trained erasures")
    parser.add_argument("--objects", type=int, default=len(OBJECTS), help="erased in turn, for the matrix")
    parser.add_argument("--parts", nargs="+", help="only parts whose title contains one of these")
    parser.add_argument("--processes", type=int, default=2, help="of one thread each")
    options = parser.parse_args()
    spread = [*OBJECTS[::2], *OBJECTS[1::2]][: options.objects]
    chosen = [p for p in parts([word for word in OBJECTS if word in spread]) if _is_chosen(p, options.parts)]
    if not chosen:
        parser.error(f"--parts: no title contains {' or '.join(options.parts)}")
    _train(chosen, options.cache, options.processes)
    by_length = sorted(chosen, key=lambda part: -len(part.needs))
    jobs = [(part.title, partial(_measure, part, options)) for part in by_length]
    run(jobs, options.processes)
    reports = [Report.from_pretrained(options.output / part.slug) for part in chosen]
    print(write_text(options.output / "report.html", written(chosen, reports, options.cache, options.output)))


def _is_chosen(part: Part, words: list[str] | None) -> bool:
    return words is None or any(word.lower() in part.title.lower() for word in words)


def _train(chosen: list[Part], cache: Path, processes: int) -> None:
    """Train what is not in the cache, and say how long that will take."""
    needed = {trained.folder(cache): trained for part in chosen for trained in part.needs.values()}
    missing = [trained for trained in needed.values() if not trained.is_kept(cache)]
    if missing:
        minutes = len(missing) * _SECONDS / 60 / processes
        print(f"{len(missing)} of {len(needed)} erasures are trained first: about {minutes:.0f} minutes", flush=True)
        run([(trained.name, partial(_trained, trained, cache)) for trained in missing], processes)


def _trained(trained: Trained, cache: Path) -> None:
    trained.read(cache)


def _measure(part: Part, options: argparse.Namespace) -> None:
    part.measure(options.cache, options.output)


if __name__ == "__main__":
    main()
