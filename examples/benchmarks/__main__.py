"""The command: measure ways of training side by side, and print a table.

On a CPU each way has a process of its own, because memory that a process has taken is not given back.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import torch
from diffusers.utils import logging

from .models import NAMES
from .speed import WAYS, Cost, cost, table

_STEPS = 50  # of a trajectory, as published


def main() -> None:
    """From options to a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=NAMES, default="emoji_sd", help="all but emoji_sd have random weights")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--group", default="esd-u")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), help="all but those for a GPU, if there is none")
    parser.add_argument("--updates", type=int, default=30, help="that are timed, of each way")
    parser.add_argument("--size", type=int, help="of the images in pixels; the model's own if not given")
    options = parser.parse_args()
    logging.set_verbosity_error()
    fields = {"group": options.group, "size": options.size, "num_inference_steps": _STEPS}
    ways = options.ways or [way for way in WAYS if options.device == "cuda" or way != "ours, not captured"]
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(
        f"{options.model}, {options.group}, batch 1, {options.updates} updates each, {where}, torch {torch.__version__}"
    )
    for line in table(_costs(options, ways, fields)):
        print(line, flush=True)


def _costs(options: argparse.Namespace, ways: list[str], fields: dict[str, Any]) -> Iterator[tuple[str, Cost]]:
    for way in ways:
        # Trajectories of 50 steps are slow.
        updates = max(4, options.updates // 5) if WAYS[way].get("trajectory") == "fresh" else options.updates
        job = partial(cost, options.model, way, options.device, fields, updates)
        if options.device == "cuda":
            yield way, job()
            continue
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            yield way, pool.submit(job).result()


if __name__ == "__main__":
    main()
