"""What a visitor asks of a training: `Planned` shows what would happen, `Trained` trains and shows how it goes."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ..arguments import check_prompt
from ..config import ESDConfig
from ..erasure import Erasure
from ..files import WEIGHTS_NAME, remove_folder
from ..gallery import is_explicit
from ..pictures.draw import without_bars
from ..pictures.plot import plot_history
from ..run import RunConfig
from ..summary import outcome
from ..training.plan import Plan
from ..training.progress import Progress
from ..training.trainer import ESDTrainer
from .code import PIPE, call
from .folder import Shelf
from .job import CancelledError, Job
from .watching import cancelled_in

WORDS = {"when the prompt names it": "esd-x", "in any case": "esd-u"}
"""The groups in words."""
HIDDEN = "Pictures are not drawn, because a concept or a prompt is explicit. Tick “Show explicit pictures” for them."
_PICTURES = 10  # in a training
_PAUSE = 2.0  # seconds between two figures of the curves
_EXAMPLES = 24  # preserved prompts that are shown at once


@dataclass(frozen=True)
class Request:
    """What to erase, and how.

    Attributes:
        concept: The concept.
        name: Name of the erasure.
        settings: Fields of `ESDConfig` that are not the default.
        prompts: Prompts whose images are drawn while it trains; empty means the concept.
        explicit: Whether images are drawn even if a concept or a prompt is explicit.

    Raises:
        TypeError: If a field has the wrong type.
        ValueError: If a value is out of range, or the concept is empty.
    """

    concept: str
    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    prompts: tuple[str, ...] = ()
    explicit: bool = False

    def __post_init__(self) -> None:
        check_prompt("concept", self.concept)
        object.__setattr__(self, "settings", dict(self.settings))
        ESDConfig(**self.settings)  # for its errors

    @property
    def config(self) -> ESDConfig:
        """The configuration."""
        return ESDConfig(**self.settings)

    @property
    def has_pictures(self) -> bool:
        """Whether images may be drawn unasked."""
        return self.explicit or not is_explicit([self.concept, *self.prompts])


@dataclass(frozen=True)
class Planned:
    """A dry run.

    Attributes:
        request: What to erase.
    """

    request: Request

    @property
    def title(self) -> str:
        """What it is called on the page."""
        return f"plan for {self.request.concept!r}"

    @property
    def code(self) -> str:
        """The call as code."""
        trainer = call("ESDTrainer", PIPE, **self.request.settings)
        erase = call("erase", self.request.concept, name=self.request.name, dry_run=True)
        return f"from diffusers_esd import ESDTrainer\n\nprint({trainer}.{erase})"

    def run(self, pipe: Any, job: Job) -> None:
        """Call it, and show the plan."""
        job.show(now="looks for words that must stay")
        with cancelled_in(pipe, job):
            trainer = ESDTrainer(pipe, **self.request.settings)
            plan = trainer.erase(self.request.concept, name=self.request.name, dry_run=True)
        job.show(now="planned; nothing is trained yet", text=described(plan, self.request.config.synonyms))


@dataclass(frozen=True)
class Trained:
    """A training, whose erasure is saved.

    Attributes:
        request: What to erase.
        shelf: The files of the visitor.
    """

    request: Request
    shelf: Shelf

    @property
    def title(self) -> str:
        """What it is called on the page."""
        return f"erasing {self.request.concept!r}"

    @property
    def run_fields(self) -> dict[str, Any]:
        """Fields of `RunConfig`: pictures while it trains."""
        if not self.request.has_pictures:
            return {}
        folder = self.shelf.place("runs", self.request.name).parent
        every = max(1, self.request.config.iterations // _PICTURES)
        prompts = {"sample_prompts": list(self.request.prompts)} if self.request.prompts else {}
        return {"output_dir": str(folder), "sample_every": every, **prompts}

    @property
    def folder(self) -> Path:
        """The folder of the erasure."""
        return self.shelf.place("erasures", self.request.name)

    @property
    def code(self) -> str:
        """The call as code."""
        trainer = call("ESDTrainer", PIPE, **self.request.settings, **self.run_fields)
        erase = call("erase", self.request.concept, name=self.request.name)
        save = call("erasure.save_pretrained", self.folder)
        return f"from diffusers_esd import ESDTrainer\n\nerasure = {trainer}.{erase}\n{save}"

    def run(self, pipe: Any, job: Job) -> None:
        """Train, save, and take the adapter off the pipeline."""
        run = RunConfig(**self.run_fields)
        job.show(now="prepares what must stay", notes=() if self.request.has_pictures else (HIDDEN,))
        trainer = ESDTrainer(pipe, run=run, **self.request.settings)
        watch = _Watch(job, self.request.config.iterations, run.folder(self.request.name))
        try:
            with without_bars(pipe), cancelled_in(pipe, job, until=watch.has_started):
                erasure = trainer.erase(self.request.concept, name=self.request.name, callback=watch)
        except CancelledError:
            watch.remove_files()
            raise
        erasure.remove(pipe)
        erasure.save_pretrained(self.folder)
        watch.show_pictures()
        watch.remove_files()
        iterations = erasure.provenance.iterations
        end = "" if erasure.provenance.complete else f"cancelled after {iterations} iterations; "
        text = f"**{erasure.name}** is in the stack.\n\n{_outcome(erasure)}"
        job.show(
            now=f"{end}saved as {erasure.name}", text=text, curves=curves(erasure), file=self.folder / WEIGHTS_NAME
        )


class _Watch:
    """The callback: shows how a training goes, and ends it if the visitor has cancelled it."""

    def __init__(self, job: Job, iterations: int, folder: Path | None) -> None:
        self._job, self._iterations, self.folder = job, iterations, folder
        self._shown, self._drawn, self._started = "", 0.0, False

    def has_started(self) -> bool:
        """Whether there was an iteration: from then on, the training ends between two iterations."""
        return self._started

    def __call__(self, progress: Progress) -> str | None:
        self._started = True
        done, of = progress.iteration, self._iterations
        words = f"iteration {done} of {of}, loss {progress.loss:.4f}, alignment {progress.smoothed_alignment:.2f}"
        self._job.show(now=words, share=done / of)
        self.show_pictures()
        if time.monotonic() - self._drawn >= _PAUSE:
            self._job.show(curves=curves(progress.erasure()))
            self._drawn = time.monotonic()
        return "stop" if self._job.is_cancelled else None

    def show_pictures(self) -> None:
        """Show the newest picture that the training has written."""
        if self.folder is None:
            return
        files = sorted(self.folder.glob("samples/iteration-*.png"), key=lambda file: int(file.stem.split("-")[1]))
        if files and files[-1].name != self._shown:
            with Image.open(files[-1]) as image:
                self._job.show(picture=image.convert("RGB"))
            self._shown = files[-1].name

    def remove_files(self) -> None:
        """Remove what the training has written. After an error it stays: the error names the checkpoint."""
        if self.folder is not None and self.folder.is_dir():
            remove_folder(self.folder)


def curves(erasure: Erasure) -> Image.Image:
    """The figure of loss and alignment."""
    content = io.BytesIO()
    plot_history(erasure, width=7.0, height=4.2).savefig(content, format="png", dpi=120)
    return Image.open(content).convert("RGB")


def described(plan: Plan, synonyms: Sequence[str] = ()) -> str:
    """A plan in Markdown: what is erased towards what, what is protected and what is not, and the whole plan.

    Args:
        plan: The plan.
        synonyms: The words that the visitor gave.
    """
    towards = [f"**{c}** is erased towards {_quoted(a)}." for c, a in plan.anchors.items()]
    lines = [*towards, f"**Protected**: {len(plan.preserved)} prompts must not change."]
    if plan.preserved:
        step = max(1, len(plan.preserved) // _EXAMPLES)
        examples = [prompt for prompt in plan.preserved[::step] if prompt][:_EXAMPLES]
        lines.append("Some of them: " + ", ".join(f"*{_plain(prompt)}*" for prompt in examples) + ".")
    if plan.synonyms or synonyms:
        words = ", ".join(f"*{_plain(word)}*" for word in dict.fromkeys([*synonyms, *plan.synonyms]))
        lines.append(f"**Not protected**, because they mean nearly the same: {words}.")
    return "\n\n".join([*lines, f"```text\n{plan}\n```"])


def _quoted(anchor: str) -> str:
    return f"“{_plain(anchor)}”" if anchor else "the empty prompt"


def _plain(text: str) -> str:
    """A text without what Markdown and HTML read as their own."""
    return "".join(f"&#{ord(sign)};" if sign in "*_`<>&[]\\#|~$" else sign for sign in text)


def _outcome(erasure: Erasure) -> str:
    assert erasure.config is not None, "it was trained"
    return _plain(outcome(erasure.config, erasure.provenance))
