"""Seconds, evaluations and memory of an update, by way of training."""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

from diffusers_esd import ESDConfig, ESDTrainer

from .models import pipeline
from .published_loop import PublishedTraining

PLAIN = {"preserve": (), "null_space": False}
FRESH = {**PLAIN, "trajectory": "fresh"}
WAYS: dict[str, dict[str, Any]] = {
    "published loop": FRESH,
    "ours, fresh": FRESH,
    "ours": PLAIN,
    "ours, not captured": {**PLAIN, "capture": False},
    "ours, checkpointing": {**PLAIN, "gradient_checkpointing": True},
    "ours, default": {},
}
"""Options by way. "Ours" is the paper's training with states of the pool; the default preserves as well."""

_WHOLE = 1000  # updates of a whole training
_WARM_UP = 3  # updates that are not timed: a GPU compiles, and captures


@dataclass(frozen=True)
class Cost:
    """What an update costs.

    Attributes:
        evaluations: Samples that the denoiser evaluates; of ours, in a training of 1000 updates with what comes before.
        seconds: Mean of those updates that are timed.
        set_up: Seconds before the first update.
        memory: Peak, in bytes: on a GPU what is allocated, on a CPU what the process has beyond the loaded pipeline.
        reserved: The same of PyTorch's reserve on a GPU.
        note: Why it is not captured, if it should be.
        median: Of the seconds.
    """

    evaluations: float
    seconds: float
    set_up: float
    memory: int
    reserved: int = 0
    note: str = ""
    median: float = 0.0


def cost(
    model: str, way: str, device: str, fields: dict[str, Any], updates: int, concepts: Sequence[str] = ("a cat",)
) -> Cost:
    """Measure one way in this process.

    Args:
        model: Name in `models.NAMES`.
        way: Name in `WAYS`.
        device: `"cpu"` or `"cuda"`.
        fields: Fields of `ESDConfig`.
        updates: Number of updates that are timed.
        concepts: What is erased; the published loop erases the first.
    """
    gc.collect()  # what was measured before
    pipe = pipeline(model, device, torch.float32 if model == "emoji_sd" else torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    options = {**fields, **WAYS[way]}
    on_gpu = device == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    before, times = 0 if on_gpu else resident(), [time.monotonic()]

    def tick() -> None:
        if on_gpu:
            torch.cuda.synchronize()
        times.append(time.monotonic())

    run = _published if way == "published loop" else _ours
    evaluations, note = run(pipe, options, updates + _WARM_UP, concepts, tick)
    deltas = [b - a for a, b in pairwise(times)]
    # The first update includes what comes before it.
    set_up = max(0.0, deltas[0] - mean(deltas[_WARM_UP:]))
    if on_gpu:
        peak, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    else:
        peak, reserved = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before, 0
    timed = deltas[_WARM_UP:]
    return Cost(evaluations, mean(timed), set_up, peak, reserved, note, median(timed))


def _published(
    pipe: Any, options: dict[str, Any], updates: int, concepts: Sequence[str], tick: Callable[[], None]
) -> tuple[float, str]:
    training = PublishedTraining(pipe, concepts[0], ESDConfig(**options))
    for _ in training.run(updates):
        tick()
    return training.evaluations / updates, ""


def _ours(
    pipe: Any, options: dict[str, Any], updates: int, concepts: Sequence[str], tick: Callable[[], None]
) -> tuple[float, str]:
    trained = ESDTrainer(pipe, **options, iterations=updates).erase(concepts, callback=lambda progress: tick())
    whole = ESDTrainer(pipe, **options, iterations=_WHOLE).erase(concepts, name="planned", dry_run=True)
    note = trained.provenance.not_captured if pipe.device.type == "cuda" and options.get("capture", True) else ""
    return sum(whole.evaluations.values()) / _WHOLE, note


def resident() -> int:
    """Bytes of memory that this process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def table(costs: Iterable[tuple[str, Cost]]) -> Iterator[str]:
    """Lines of Markdown, one after the other."""
    yield "| | evaluations per update | seconds per update | set-up, s | peak GiB (reserved) |"
    yield "|---|---|---|---|---|"
    for name, found in costs:
        memory = f"{found.memory / 2**30:.2f}" + (f" ({found.reserved / 2**30:.2f})" if found.reserved else "")
        note = f" ({found.note})" if found.note else ""
        yield f"| {name}{note} | {found.evaluations:.1f} | {found.seconds:.4f} | {found.set_up:.1f} | {memory} |"
