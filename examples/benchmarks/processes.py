"""How much faster are several processes? `python -m benchmarks.processes`, on CPUs or GPUs.

The same training, with the same batch in each process, in one process and in several, one number after the other. Then
as many processes at the same time that do not train together, which is the most that the machine allows: cores share
memory and caches. On a CPU each process has one thread by default; on GPUs each process has a GPU of its own.
"""

from __future__ import annotations

import argparse
import os
import time
import uuid
from itertools import pairwise
from statistics import mean, median
from typing import Any

import torch
from diffusers.utils import logging
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from diffusers_esd import ESDConfig, ESDTrainer

from .models import NAMES, pipeline

WAYS: dict[str, dict[str, Any]] = {
    "plain, fresh": ESDConfig.paper().to_dict(),
    "plain": {"preserve": (), "null_space": False},
    "default": {},
}
"""Options by way: the paper's training, the same with states of the pool, and the defaults."""

_WARM_UP = 3  # updates that are not timed: a GPU compiles, and captures


def main() -> None:
    """From options to a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=NAMES, default="emoji_sd", help="all but emoji_sd have random weights")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="numbers of processes")
    parser.add_argument("--batch-size", type=int, default=1, help="of each process")
    parser.add_argument("--updates", type=int, default=40, help="that are timed, of each")
    parser.add_argument("--threads", type=int, default=1, help="of each process, on a CPU")
    options = parser.parse_args()
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {options.threads} threads each"
    print(f"{options.model}, esd-u, batch {options.batch_size} in each process, {where}, torch {torch.__version__}")
    print(
        "| | processes | updates per second (median) | CPU seconds per update | states per second | times the first |"
    )
    print("|---|---|---|---|---|---|")
    for way in options.ways:
        first = None
        for n, together in [
            (n, together) for n in options.processes for together in (True, False) if n > 1 or together
        ]:
            deltas, cpu = run(n, vars(options), way, together)
            states = n * options.batch_size / mean(deltas)
            first = first or states
            cells = f"{n}{'' if together else ', each alone'} | {1 / mean(deltas):.2f} ({1 / median(deltas):.2f})"
            print(f"| {way} | {cells} | {cpu:.3f} | {states:.2f} | {states / first:.2f} |", flush=True)


def run(n: int, options: dict[str, Any], way: str, together: bool) -> tuple[list[float], float]:
    """The seconds of each update in n processes, and the CPU seconds of an update in one of them.

    Args:
        n: Number of processes.
        options: `model`, `device`, `batch_size`, `updates` and `threads`, as the command has them.
        way: Name in `WAYS`.
        together: Whether the processes train together.
    """
    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=n,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        monitor_interval=0.5,
    )
    return elastic_launch(launch, seconds)(options, way, together)[0]


def seconds(options: dict[str, Any], way: str, together: bool) -> tuple[list[float], float]:
    """The seconds of each update in this process, of those that a launcher has started; the main one measures.

    Args:
        options: The options of the command.
        way: Name in `WAYS`.
        together: Whether the processes train together.

    Returns:
        The seconds of each update, and the mean CPU seconds of this process.
    """
    logging.set_verbosity_error()
    on_gpu = options["device"] == "cuda"
    if not on_gpu:
        torch.set_num_threads(options["threads"])
    device = f"cuda:{os.environ['LOCAL_RANK']}" if on_gpu else "cpu"
    pipe = pipeline(options["model"], device, torch.float32 if options["model"] == "emoji_sd" else torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    times: list[float] = []
    cpu: list[float] = []

    def tick(_: object) -> None:
        if on_gpu:
            torch.cuda.synchronize()
        times.append(time.monotonic())
        cpu.append(time.process_time())

    updates = max(4, options["updates"] // 5) if way == "plain, fresh" else options["updates"]
    fields = {**WAYS[way], "batch_size": options["batch_size"], "iterations": updates + _WARM_UP}
    ESDTrainer(pipe, **fields, data_parallel=together).erase("a cat", callback=tick)
    deltas = [b - a for a, b in pairwise(times)][_WARM_UP - 1 :]
    return deltas, (cpu[-1] - cpu[_WARM_UP - 1]) / len(deltas) if deltas else 0.0


if __name__ == "__main__":
    main()
