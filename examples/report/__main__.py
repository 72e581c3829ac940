"""The command: train what is missing, evaluate, and write the page."""

from __future__ import annotations

import argparse
from pathlib import Path

from emoji_sd import OBJECTS

from diffusers_esd import Report
from diffusers_esd.files import write_text

from .page import written
from .parts import Part, parts
from .work import measure, train


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
    objects = [word for word in OBJECTS if word in spread]
    chosen = [part for part in parts(objects) if _is_chosen(part, options.parts)]
    if not chosen:
        parser.error(f"--parts: no title contains {' or '.join(options.parts)}")
    train(chosen, options.cache, options.processes)
    measure(chosen, objects, options.cache, options.output, options.processes)
    reports = [Report.from_pretrained(options.output / part.slug) for part in chosen]
    command = "make report" if options.objects >= len(OBJECTS) else f"python -m report --objects {options.objects}"
    page = written(chosen, reports, options.cache, options.output, command)
    print(write_text(options.output / "report.html", page))


def _is_chosen(part: Part, words: list[str] | None) -> bool:
    return words is None or any(word.lower() in part.title.lower() for word in words)


if __name__ == "__main__":
    main()
