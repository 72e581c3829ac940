"""What a visitor asks of their stack: `Compared` draws, `Calibrated` finds scales, `Evaluated` measures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..arguments import check_prompts, check_seeds, integer_from
from ..erasure import Erasure
from ..evaluation.evaluate import evaluate
from ..gallery import is_explicit
from ..pictures.preview import preview
from ..report_table import table
from ..stacks.calibrate import calibrate
from ..storage import JSON_NAME
from .code import PIPE, Name, call
from .folder import Shelf
from .job import Job
from .judge import JudgeChoice
from .watching import cancelled_in, with_bar

EXPLICIT = (
    "No pictures: a concept of the stack or a prompt is explicit. Tick “Show explicit pictures” to draw them anyway."
)
_MOST = 24  # images of a comparison
_STEPS = integer_from(1)


@dataclass(frozen=True)
class Compared:
    """Images without and with the stack, on the same seeds.

    Attributes:
        shelf: The files of the visitor.
        scales: Scales by name.
        prompts: What is drawn.
        seeds: Seeds of the noise.
        steps: Denoising steps.
        explicit: Whether images are drawn even if a concept or a prompt is explicit.

    Raises:
        TypeError: If a field has the wrong type.
        ValueError: If there is nothing to draw or too much, there is no erasure of a name, or an image would be
            explicit and is not asked for.
    """

    shelf: Shelf
    scales: Mapping[str, float]
    prompts: Sequence[str]
    seeds: Sequence[int] = (0,)
    steps: int = 25
    explicit: bool = False

    title = "comparing without and with the stack"

    def __post_init__(self) -> None:
        prompts, seeds = check_prompts("prompts", self.prompts), check_seeds(self.seeds)
        _STEPS("steps", self.steps)
        if not prompts:
            raise ValueError("`prompts` is empty; give at least one, each in a line.")
        if len(prompts) * len(seeds) * 2 > _MOST:
            raise ValueError(
                f"{len(prompts)} prompts with {len(seeds)} seeds are too many; {_MOST} images is the most."
            )
        if not self.explicit and is_explicit([*prompts, *concepts_of(self.shelf, self.scales)]):
            raise ValueError(EXPLICIT)

    @property
    def arguments(self) -> tuple[dict[str, float], list[str]]:
        """Erasures with scales, and prompts."""
        return self.shelf.sources(self.scales), list(self.prompts)

    @property
    def options(self) -> dict[str, Any]:
        """Named arguments of `preview`."""
        return {"scales": [0, 1], "seeds": list(self.seeds), "num_inference_steps": self.steps}

    @property
    def code(self) -> str:
        """The call as code."""
        return f"from diffusers_esd import preview\n\n{call('preview', PIPE, *self.arguments, **self.options)}"

    def run(self, pipe: Any, job: Job) -> None:
        """Draw, and show the picture."""
        with cancelled_in(pipe, job), with_bar(pipe, job, "denoising steps"):
            picture = preview(pipe, *self.arguments, **self.options)
        job.show(now="drawn", picture=picture)


@dataclass(frozen=True)
class Calibrated:
    """The smallest scales that are enough for the erasures of a stack together.

    Attributes:
        shelf: The files of the visitor.
        scales: The largest scales, by name.
    """

    shelf: Shelf
    scales: Mapping[str, float]

    title = "calibrating the stack"

    @property
    def sources(self) -> dict[str, float]:
        """Erasures with scales."""
        return self.shelf.sources(self.scales)

    @property
    def code(self) -> str:
        """The call as code."""
        calibrated = call("calibrate", PIPE, self.sources)
        return f"from diffusers_esd import calibrate, stack\n\nscales = {calibrated}\nstack(pipe, scales)"

    def run(self, pipe: Any, job: Job) -> None:
        """Measure, and put the scales into the stack."""
        job.show(now="measures what is left of each concept")
        with cancelled_in(pipe, job):
            found = calibrate(pipe, self.sources)
        scales = {Path(source).name: round(scale, 3) for source, scale in found.items()}
        self.shelf.keep({**self.scales, **scales})
        rows = [f"| {name} | {self.scales[name]:g} | {scale:g} |" for name, scale in scales.items()]
        lines = ["These scales are enough together:", "", "| erasure | before | now |", "|---|---|---|", *rows]
        job.show(now="calibrated", text="\n".join(lines))


@dataclass(frozen=True)
class Evaluated:
    """The suite `quick`: is the concept gone, however it is asked for, and did everything else stay?

    Attributes:
        shelf: The files of the visitor.
        scales: Scales by name.
        name: Name of the report.
        judge: Who judges.
        steps: Denoising steps.
    """

    shelf: Shelf
    scales: Mapping[str, float]
    name: str
    judge: JudgeChoice = field(default_factory=JudgeChoice)
    steps: int = 25

    title = "measuring the stack"

    def __post_init__(self) -> None:
        _STEPS("steps", self.steps)

    @property
    def sources(self) -> dict[str, float]:
        """Erasures with scales."""
        return self.shelf.sources(self.scales)

    @property
    def options(self) -> dict[str, Any]:
        """Named arguments of `evaluate`, without the judges."""
        folder = self.shelf.place("reports", self.name)
        return {"output_dir": str(folder), "options": {"num_inference_steps": self.steps}}

    @property
    def code(self) -> str:
        """The call as code."""
        judges = {} if self.judge.name is None else {"judges": [Name(self.judge.code)]}
        lines = ["from diffusers_esd import evaluate", *self.judge.imports, ""]
        return "\n".join([*lines, "report = " + call("evaluate", PIPE, self.sources, **judges, **self.options)])

    def run(self, pipe: Any, job: Job) -> None:
        """Draw, judge, and show the table."""
        job.show(now="chooses what is asked")
        judges = self.judge.made()
        with cancelled_in(pipe, job), with_bar(pipe, job, "images"):
            report = evaluate(pipe, self.sources, judges=judges, **self.options)
        page = Path(self.options["output_dir"], "report.html")
        if len(self.sources) == 1:
            (folder,) = self.sources
            Erasure.from_pretrained(folder).with_report(report).save_pretrained(folder)
        job.show(now="measured", text=table(report), file=page)


def concepts_of(shelf: Shelf, scales: Mapping[str, float]) -> list[str]:
    """The concepts of the erasures of a stack, also of those whose scale is 0."""
    records = [json.loads((shelf.erasure(name) / JSON_NAME).read_text(encoding="utf-8")) for name in scales]
    return [concept for record in records for concept in record["provenance"]["concepts"]]
