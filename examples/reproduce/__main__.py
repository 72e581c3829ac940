"""Runs an experiment: `python -m reproduce nudity MODEL --train -o nudity`, from `examples/`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from diffusers_esd.cli.model import loading_bars
from diffusers_esd.files import write_text

from . import ablation, artwork, celebrities, fidelity, nudity, objects, styles, unlearncanvas

EXPERIMENTS = (nudity, fidelity, objects, styles, ablation, artwork, unlearncanvas, celebrities)


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command; `run` is the experiment."""
    parser = argparse.ArgumentParser(
        prog="python -m reproduce", description="The paper's experiments, beside its figures.", allow_abbrev=False
    )
    commands = parser.add_subparsers(required=True, metavar="EXPERIMENT")
    for experiment in EXPERIMENTS:
        experiment.add(commands)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run an experiment; its tables are printed, and written to `tables.md` in the output folder.

    Returns:
        0, 1 after an error that is printed, 130 after Ctrl-C.
    """
    options = parsed(arguments)
    try:
        with loading_bars(shown=not options.quiet):
            text = options.run(options)
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if os.environ.get("RANK", "0") == "0":  # the first process of a launcher
        write_text(options.output / "tables.md", f"{text}\n")
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
