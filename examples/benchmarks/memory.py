"""Memory of a training on a GPU, by model, group and options, as its user has it: the text encoders are whole.

    python -m benchmarks memory --output memory.json                     from examples/, all rows
    python -m benchmarks memory --quantised --seconds 220 --output ...   also rows of an int8 base (torchao)
    python -m benchmarks memory --model SDXL --card 12                   only SDXL, as on a card of 12 GiB

All weights are random, of the published sizes, in bfloat16, made on the GPU. Nothing is downloaded. The training is the
default one at the model's own size, with few updates, steps, prompts and short trajectories of the null space: they
change how long it takes, and hardly what it needs at a time. As on the command line, the autoencoder is missing, and
with `offload` or `free_text_encoders` the denoiser waits on the CPU until all prompts are encoded.

A row that fails says why, and the next one is measured. The results are written after each row: JSON to `--output`, and
the same as a table of Markdown beside it. On a CPU, the rows are of `emoji_sd`, and memory is what the process has
beyond the loaded pipeline.
"""

from __future__ import annotations

import gc
import json
import resource
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

from diffusers_esd import ESDTrainer, Limits
from diffusers_esd.denoiser import find_denoiser

from .models import pipeline
from .speed import resident

FIELDS = {"num_inference_steps": 4}
LIMITS = Limits(
    words=20, neighbours=8, pairs=16, contexts=4, steps=2, trajectories=8, concept_trajectories=8,
    largest_leak=float("inf"),  # of so few inputs it says nothing
)  # fmt: skip
UPDATES = 3  # that are timed
WARM_UP = 3  # updates before them: a GPU compiles, and captures

_FREE = {"gradient_checkpointing": True, "free_text_encoders": True}
_SMALLEST = {**_FREE, "capture": False}


@dataclass(frozen=True)
class Way:
    """What is measured.

    Attributes:
        model: Name in `models.NAMES`.
        group: Which layers train.
        options: Fields of `RunConfig` that are not their default.
        is_quantised: Whether the denoiser's weights have eight bits.
    """

    model: str
    group: str
    options: dict[str, Any] = field(default_factory=dict)
    is_quantised: bool = False


WAYS = (
    Way("SDXL", "esd-x"),
    Way("Flux.1 dev", "esd-u", {"gradient_checkpointing": True}),
    Way("SDXL", "esd-u"),
    Way("SDXL", "esd-u", {"gradient_checkpointing": True}),
    Way("SDXL", "esd-u", _SMALLEST),
    Way("Flux.1 dev", "esd-x", {"gradient_checkpointing": True}),
    Way("Flux.1 dev", "esd-u", _SMALLEST),
    Way("SDXL", "esd-u", {"offload": True}),
    Way("SDXL", "esd-u", {"capture": False}),
)
QUANTISED = (
    Way("Flux.1 dev", "esd-x", _SMALLEST, is_quantised=True),
    Way("Flux.1 dev", "esd-u", _FREE, is_quantised=True),
)


@dataclass(frozen=True)
class Memory:
    """What a training needed.

    Attributes:
        way: What was trained.
        loaded: Bytes of the loaded pipeline, without what waits on the CPU.
        peak: Most bytes of tensors at a time, from the loaded pipeline on.
        reserved: Most bytes that PyTorch had taken from the GPU.
        card: Most bytes that were taken on the GPU, after an update, with CUDA's own.
        seconds: Median of the timed updates.
        set_up: Seconds before the first update is done.
        note: Why there are no CUDA graphs, if there should be; or why it failed.
    """

    way: Way
    loaded: int = 0
    peak: int = 0
    reserved: int = 0
    card: int = 0
    seconds: float = 0.0
    set_up: float = 0.0
    note: str = ""


def ways(model: str | None, device: str, *, quantised: bool) -> list[Way]:
    """The rows: of one model or of all; on a CPU, the small model in place of each."""
    if device == "cpu":
        return list({str((way.group, way.options)): Way("emoji_sd", way.group, way.options) for way in WAYS}.values())
    chosen = [*WAYS, *(QUANTISED if quantised else ())]
    return [way for way in chosen if model in (None, way.model)]


def measured(way: Way, device: str, card: float | None = None) -> Memory:
    """Measure a row in this process. An error becomes its note.

    Args:
        way: What is measured.
        device: `"cpu"` or `"cuda"`.
        card: PyTorch gets so many GiB of the GPU; `None` means all.
    """
    try:
        if card is not None:
            total = torch.cuda.get_device_properties().total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, card * 2**30 / total))
        return _measure(way, device)
    except Exception as error:
        lines = str(error).splitlines() or [""]
        return Memory(way, note=f"{type(error).__name__}: {lines[0][:200]}")


def _measure(way: Way, device: str) -> Memory:
    _free(device)  # what was measured before
    dtype = torch.float32 if way.model == "emoji_sd" else torch.bfloat16
    pipe: Any = pipeline(way.model, device, dtype, whole_text_encoders=True)
    pipe.set_progress_bar_config(disable=True)
    if way.is_quantised:
        _quantise(pipe.transformer)
    if way.options.keys() & {"offload", "free_text_encoders"}:
        find_denoiser(pipe)[1].to("cpu")
    _free(device)
    before, times, taken = _now(device), [time.monotonic()], [0]

    def tick(_: object) -> None:
        if device == "cuda":
            torch.cuda.synchronize()
            free, total = torch.cuda.mem_get_info()
            taken.append(total - free)
        times.append(time.monotonic())

    options = {**FIELDS, **way.options, "group": way.group, "iterations": WARM_UP + UPDATES}
    erasure = ESDTrainer(pipe, **options, limits=LIMITS).erase("a cat", callback=tick)
    deltas = [b - a for a, b in pairwise(times)]
    peak, reserved = _peaks(device)
    if device == "cpu":
        peak -= before
    note = erasure.provenance.not_captured if device == "cuda" and way.options.get("capture", True) else ""
    return Memory(way, before, peak, reserved, max(taken), median(deltas[WARM_UP:]), deltas[0], note)


def _quantise(denoiser: torch.nn.Module) -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(denoiser, Int8WeightOnlyConfig())


def _free(device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _now(device: str) -> int:
    return torch.cuda.memory_allocated() if device == "cuda" else resident()


def _peaks(device: str) -> tuple[int, int]:
    if device == "cuda":
        return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, 0


def written(outcomes: Iterable[Memory], output: Path, where: str) -> Iterator[str]:
    """Lines of Markdown, one after the other; all so far are in both files.

    Args:
        outcomes: What was measured.
        output: The JSON file; the table has the same name with `.md`.
        where: The GPU and the version of PyTorch.
    """
    records, lines = [], []
    for line in table(outcomes, records):
        lines.append(line)
        output.write_text(json.dumps({"where": where, "rows": records}, indent=2) + "\n", encoding="utf-8")
        output.with_suffix(".md").write_text("\n".join([where, "", *lines, ""]), encoding="utf-8")
        yield line


def table(outcomes: Iterable[Memory], records: list[dict[str, Any]]) -> Iterator[str]:
    """Lines of Markdown; `records` gets each outcome as JSON types, before its line."""
    yield "| model | group | options | loaded | peak GiB (reserved) | on the card | s per update |"
    yield "|---|---|---|---|---|---|---|"
    for found in outcomes:
        records.append(asdict(found))
        way = found.way
        named = [name if value else f"no {name}" for name, value in way.options.items()]
        shown = ", ".join([*(["int8"] if way.is_quantised else []), *named]).replace("_", " ") or "none"
        if not found.peak:
            yield f"| {way.model} | `{way.group}` | {shown} | {found.note} | | | |"
            continue
        loaded, peak, reserved, card = (
            f"{size / 2**30:.2f}" for size in (found.loaded, found.peak, found.reserved, found.card)
        )
        note = f" ({found.note})" if found.note else ""
        yield (
            f"| {way.model} | `{way.group}` | {shown}{note} | {loaded} | {peak} ({reserved}) | {card} | "
            f"{found.seconds:.3f} |"
        )
