"""The command: train, judge, and write `frontier.md` and the plots."""

from __future__ import annotations

import argparse
from pathlib import Path

from .page import markdown, plot
from .rates import row
from .recipes import GROUNDS, RECIPES
from .work import Frontier, measure

LINES = {
    "anchor": "with an anchor",
    "calibrated": "... calibrated",
    "refined": "... refined",
    "default": "empty prompt",
    "paper": "the paper's",
}


def main() -> None:
    """All recipes, from start to end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("frontier-output"))
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES), metavar="RECIPE")
    parser.add_argument("--preset", choices=list(GROUNDS), default="small", help="the model")
    parser.add_argument("--rows", nargs="+", help="how many are erased together, 1, or 'a style'; all if not given")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of training")
    parser.add_argument("--processes", type=int, default=2, help="of one thread each")
    options = parser.parse_args()
    frontier = Frontier(GROUNDS[options.preset], options.output)
    groups = frontier.ground.rows
    if unknown := set(options.rows or groups) - set(groups):
        parser.error(f"--rows: {sorted(unknown)} of {options.preset}: choose from {', '.join(map(repr, groups))}")
    options.output.mkdir(parents=True, exist_ok=True)
    measure(frontier, ["base", *options.recipes], options.seeds, options.rows or list(groups), options.processes)
    rows = {
        name: {n: found for n in groups if (found := row(frontier, name, options.seeds, groups[n])) is not None}
        for name in dict.fromkeys(["base", *options.recipes])
    }
    text = markdown(rows)
    (options.output / "frontier.md").write_text(text, encoding="utf-8")
    for group in ("esd-x", "esd-u"):
        lines = {f"{group}, {kind}": label for kind, label in LINES.items()}
        title = f"{group}: what is kept by the number of erasures"
        (options.output / f"frontier-{group}.svg").write_text(
            plot(rows, lines, title, frontier.ground.sizes), encoding="utf-8"
        )
    print(text)


if __name__ == "__main__":
    main()
