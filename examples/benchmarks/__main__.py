"""The commands: measure ways of training side by side, and print a table.

    speed     seconds, evaluations and memory of an update, by way of training
    erasing   seconds until a concept is gone, and what is kept then, on emoji_sd
    scaling   what the default training costs against its updates, concepts, rank, size and batch; with plots
    memory    what a training needs on a GPU, of SDXL and of Flux.1 dev, by its options

On a CPU each way has a process of its own, because memory that a process has taken is not given back.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging

from . import erasing, memory, scaling
from .models import NAMES, SIZES
from .speed import WAYS, Cost, cost, table

_STEPS = 50  # of a trajectory, as published


def main() -> None:
    """From options to a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("speed", "erasing", "scaling", "memory"), default="speed")
    text = "all but emoji_sd have random weights (default: emoji_sd; of memory: all that it has)"
    parser.add_argument("--model", choices=NAMES, help=text)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--group", default="esd-u")
    ways = list(dict.fromkeys([*WAYS, *erasing.WAYS]))
    parser.add_argument("--ways", nargs="+", choices=ways, help="of speed and erasing: only these")
    parser.add_argument("--updates", type=int, default=30, help="of speed: that are timed, of each way")
    parser.add_argument("--size", type=int, help="of speed: of the images in pixels; the model's own if not given")
    text = "of erasing: the longest training; of memory: no row is begun later"
    parser.add_argument("--seconds", type=float, default=600, help=text)
    text = "of scaling: the plots (default: scaling.svg); of memory: the results (default: memory.json)"
    parser.add_argument("--output", type=Path, help=text)
    parser.add_argument("--quantised", action="store_true", help="of memory: also Flux.1 dev in eight bits (torchao)")
    parser.add_argument("--card", type=float, help="of memory: PyTorch gets so many GiB (default: all of the GPU)")
    options = parser.parse_args()
    logging.set_verbosity_error()
    if options.what == "erasing":
        options.model, options.group, options.device = "emoji_sd", "esd-u", "cpu"
    if options.what != "memory":
        options.model = options.model or "emoji_sd"
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    options.where = f"{where}, torch {torch.__version__}"
    print(", ".join(filter(None, [options.model, options.group, options.where])), flush=True)
    functions = {"speed": _speed, "erasing": _erasing, "scaling": _scaling, "memory": _memory}
    for line in functions[options.what](options):
        print(line, flush=True)


def _speed(options: argparse.Namespace) -> Iterator[str]:
    fields = {"group": options.group, "size": options.size, "num_inference_steps": _STEPS}
    ways = options.ways or [way for way in WAYS if options.device == "cuda" or way != "ours, not captured"]
    return table(_costs(options, ways, fields))


def _costs(options: argparse.Namespace, ways: list[str], fields: dict[str, Any]) -> Iterator[tuple[str, Cost]]:
    for way in ways:
        # Trajectories of 50 steps are slow.
        updates = max(4, options.updates // 5) if WAYS[way].get("trajectory") == "fresh" else options.updates
        yield way, _run(options.device, cost, options.model, way, options.device, fields, updates)


def _erasing(options: argparse.Namespace) -> Iterator[str]:
    ways = options.ways or list(erasing.WAYS)
    return erasing.table((way, _run("cpu", erasing.erasing, way, options.seconds)) for way in ways)


def _scaling(options: argparse.Namespace) -> Iterator[str]:
    measured: list[scaling.Point] = []
    measure = partial(_run, options.device, cost)
    for point in scaling.points(options.model, options.device, options.group, SIZES[options.model], measure):
        measured.append(point)
        yield f"{point.axis} {point.value:g}: {point.seconds:.4g} s"
    scaling.plot(measured, options.output or Path("scaling.svg"), f"{options.model}, {options.group}, {options.device}")
    yield from scaling.table(measured)


def _memory(options: argparse.Namespace) -> Iterator[str]:
    if options.card is not None:
        options.where += f", {options.card:g} GiB"
    return memory.written(_memories(options), options.output or Path("memory.json"), options.where)


def _memories(options: argparse.Namespace) -> Iterator[memory.Memory]:
    """Each row is measured in a process of its own: after an error of CUDA, a process cannot use the GPU any more."""
    started = time.monotonic()
    for way in memory.ways(options.model, options.device, quantised=options.quantised):
        if time.monotonic() - started > options.seconds:
            yield memory.Memory(way, note=f"not measured in {options.seconds:g} seconds")
        else:
            yield _apart(memory.measured, way, options.device, options.card)


def _run(device: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function, on a CPU in a process of its own."""
    return function(*arguments) if device == "cuda" else _apart(function, *arguments)


def _apart(function: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


if __name__ == "__main__":
    main()
