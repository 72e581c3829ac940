"""A small evaluation: the tiny pipeline, judges of brightness, and methods that end in the middle."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from made import made
from PIL.Image import Image
from tiny import tiny_pipeline

from diffusers_esd import Report, evaluate
from diffusers_esd.cli import main
from diffusers_esd.evaluation.judges.base import Finding, Judge, Kind, Picture
from diffusers_esd.evaluation.methods import Base, Draw, base_record, drawer
from diffusers_esd.evaluation.prompts import Prompt, PromptSet, repeated
from diffusers_esd.evaluation.suite import Suite
from diffusers_esd.report_rows import Column, Estimate, Row

OPTIONS = {"num_inference_steps": 2, "guidance_scale": 3.0}
CAT: dict[str, Any] = {"group": "named", "concept": "a cat", "labels": {"subject": "bright"}}


def brightness(image: Image) -> float:
    """The mean of all pixels, from 0 to 1."""
    return float(np.asarray(image, dtype=np.float64).mean() / 255)


class Bright(Judge):
    """Recognises bright and dark images."""

    kind: ClassVar[Kind] = "recognises"
    name = "bright or dark"

    def __init__(self, threshold: float = 0.5) -> None:
        self.threshold = threshold
        self.seen: list[str] = []

    def record(self) -> dict[str, Any]:
        return {"threshold": self.threshold}

    def knows(self, label: str) -> bool:
        return label in ("bright", "dark")

    def __call__(self, pictures: Sequence[Picture]) -> list[tuple[Finding, ...]]:
        self.seen += [picture.prompt.case for picture in pictures]
        values = [brightness(picture.image) for picture in pictures]
        return [(Finding("bright" if value > self.threshold else "dark", value),) for value in values]


class Everything(Bright):
    """Knows every label."""

    name = "knows everything"

    def knows(self, label: str) -> bool:
        return True


class Brightness(Judge):
    """Scores the brightness."""

    kind: ClassVar[Kind] = "scores"
    name = "brightness"

    def record(self) -> dict[str, Any]:
        return {}

    def __call__(self, pictures: Sequence[Picture]) -> list[tuple[Finding, ...]]:
        return [(Finding("brightness", brightness(picture.image)),) for picture in pictures]


def small_suite(*judges: Judge, **options: Any) -> Suite:
    """Eight images: four name a cat, and four are of something else."""
    named = repeated([("a cat", CAT)], 4, first_seed=0, prefix="named")
    labels = (("a dog", "bright"), ("a bus", "dark"))
    others = [(text, {"group": "general", "labels": {"subject": label}}) for text, label in labels]
    prompts = PromptSet("small", (*named, *repeated(others, 2, first_seed=100, prefix="general")))
    groups = {"named": "The prompt names it.", "general": "Other things."}
    return Suite("small", prompts, judges or (Bright(), Brightness()), groups=groups, options={**OPTIONS, **options})


class Ending(Base):
    """The base model once more, under another name; it ends after some batches.

    Args:
        after: Number of batches; `None` for no end.
        how: `"killed"`: the process is killed; `"full"`: no file can be written from then on.
    """

    name = "again"

    def __init__(self, after: int | None = None, how: str = "killed") -> None:
        self.after, self.how, self.drawn = after, how, 0

    def record(self, pipe: Any) -> dict[str, Any]:
        return base_record(pipe)

    @contextmanager
    def drawing(self, pipe: Any, options: Mapping[str, Any]) -> Iterator[Draw]:
        draw, batches = drawer(pipe, options), iter(range(1000))

        def counting(prompts: Sequence[Prompt], **more: Any) -> list[Image]:
            if next(batches) == self.after:
                if self.how == "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (50, resource.RLIM_INFINITY))
            images = draw(prompts, **more)
            self.drawn += len(images)
            return images

        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            yield counting
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


def run_small(output: Path, after: int | None = None, how: str = "killed") -> tuple[Report, int]:
    """Evaluate an erasure and the base model again; also how many images this process drew of that.

    Args:
        output: Folder of the evaluation.
        after: See `Ending`.
        how: See `Ending`.
    """
    pipe, again = tiny_pipeline(), Ending(after, how)
    erasure = made(pipe, rank=2, group="esd-x")
    report = evaluate(pipe, erasure, suite=small_suite(), output_dir=output, methods=[again], batch_size=2)
    return replace(report, picture=None), again.drawn


def called(arguments: list[str]) -> tuple[int, str]:
    """The exit code of a command, and what it prints."""
    printed = StringIO()
    with redirect_stdout(printed):
        return main(arguments), printed.getvalue()


def images_of(folder: Path) -> dict[str, Path]:
    """The images of an evaluation by method and case: `base/named-0000`."""
    root = folder / "images"
    return {str(file.relative_to(root).with_suffix("")): file for file in sorted(root.rglob("*.png"))}


def a_report(**changes: Any) -> Report:
    """A report as an evaluation makes it, of two methods."""
    rates = {"base": Estimate(0.75, 0.3, 0.95, 4, 4), "no-a-cat": Estimate(0.25, 0.05, 0.7, 4, 4)}
    row = Row(
        group="named",
        concept="a cat",
        judge="a judge",
        label="",
        measure="rate",
        better="",
        figures=rates,
        differences={"no-a-cat": Estimate(-0.5, -1.0, 0.0, 4, 4)},
        by_label={"a cat": rates, "a dog": rates},
    )
    scores = {"base": Estimate(120.0, None, None, 3, 4)}
    other = Row(group="general", concept="", judge="scores", label="", measure="mean", better="higher", figures=scores)
    erasures = {"erasures": [{"name": "no-a-cat", "scale": 1.0, "weights": "0" * 64}]}
    values: dict[str, Any] = {
        "suite": "quick",
        "columns": (Column("base", (), {"model": "m"}), Column("no-a-cat", ("a cat",), erasures)),
        "rows": (row, other),
        "prompts": {"name": "quick", "source": "made", "licence": "CC0", "prompts": 8, "digest": "1" * 64},
        "groups": {"named": "The prompt names it.", "unused": "Nothing."},
        "options": {"num_inference_steps": 2},
        "judges": {"a judge": {"weights": "2" * 64}, "scores": {}},
        "attacks": {},
        "versions": {"torch": "2.0"},
        "created": "2026-01-31",
        "notes": ("A note.",),
    }
    return Report(**{**values, **changes})
