"""`Experiment`: the erasures of the paper, given or trained, and their evaluation."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from diffusers_esd import Erasure, ESDConfig, ESDTrainer, RunConfig
from diffusers_esd.cli.fields import read_fields
from diffusers_esd.cli.model import load_pipeline
from diffusers_esd.cli.options import read_erasures
from diffusers_esd.evaluation.baselines.negative_prompt import NegativePrompt
from diffusers_esd.evaluation.baselines.safe_latent_diffusion import SafeLatentDiffusion
from diffusers_esd.evaluation.evaluate import evaluate
from diffusers_esd.evaluation.methods import Erased, Method
from diffusers_esd.evaluation.prompts import PromptSet
from diffusers_esd.evaluation.suite import Suite
from diffusers_esd.names import default_name
from diffusers_esd.report import Report
from diffusers_esd.report_rows import Row
from diffusers_esd.stacks.sources import check_base
from diffusers_esd.storage import is_finished
from diffusers_esd.training.launch import joined

BASELINES: dict[str, Callable[[Sequence[str], str], Method]] = {
    "negative-prompt": lambda concepts, name: NegativePrompt(concepts, name=name),
    "sld-medium": lambda concepts, name: SafeLatentDiffusion(concepts, preset="medium", name=name),
    "sld-max": lambda concepts, name: SafeLatentDiffusion(concepts, preset="max", name=name),
}
"""The paper's baselines."""


@dataclass(frozen=True)
class Training:
    """An erasure of the paper.

    Attributes:
        concept: What is erased.
        group: Which layers train.
        fields: Fields of `ESDConfig` that are not the paper's default, such as `eta`.
        mark: What its name has at the end, if the concept is erased in several ways.
        also: Other names of the concept.
    """

    concept: str
    group: str
    fields: Mapping[str, Any] = field(default_factory=dict, hash=False)
    mark: str = ""
    also: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of its adapter and folder."""
        return "-".join(filter(None, [default_name([self.concept]), self.mark]))

    def config(self, changes: Mapping[str, Any]) -> ESDConfig:
        """The paper's plain training, with our learning rate: a LoRA needs a larger one than the weights themselves."""
        return ESDConfig.paper(**{**changes, "group": self.group, **self.fields})

    def fits(self, erasure: Erasure) -> bool:
        """Whether an erasure is of this concept; with a mark, also of this group and with these fields."""
        names = {plain(name) for name in (self.concept, *self.also)}
        if not names & set(map(plain, erasure.provenance.concepts)):
            return False
        config = erasure.config
        settings = {"group": self.group, **self.fields}
        return not self.mark or (config is not None and all(getattr(config, k) == v for k, v in settings.items()))


@dataclass(frozen=True)
class Measured:
    """What an experiment found.

    Attributes:
        report: The report.
        erasures: Which erasure of the paper a method is, for those that are one.
        baselines: Which erasure of the paper a baseline stands beside.
    """

    report: Report
    erasures: Mapping[str, Training]
    baselines: Mapping[str, Training]

    @property
    def base(self) -> str:
        """Name of the base model's column."""
        return self.report.methods[0]

    def row(self, group: str, *, judge: str | None = None, label: str = "") -> Row:
        """The row of a group of prompts."""
        (concept,) = {row.concept for row in self.report.rows if row.group == group}
        return self.report.row(group, concept, judge=judge, label=label)


@dataclass
class Experiment:
    """The erasures that are evaluated, and how.

    Args:
        options: Of the command.
        trainings: The paper's erasures.
        are_together: Whether all are one method, active together; otherwise each is a method of its own.
    """

    options: argparse.Namespace
    trainings: Sequence[Training]
    are_together: bool = False
    given: list[tuple[Erasure, float]] = field(init=False)

    def __post_init__(self) -> None:
        given = {} if self.options.config is None else read_fields(self.options.config)
        names = {f.name for f in fields(ESDConfig)}
        self.changes = {name: value for name, value in given.items() if name in names}
        self.run_changes = {name: value for name, value in given.items() if name not in names}
        for training in self.trainings:
            training.config(self.changes)  # for its errors
        self.given = list(read_erasures(self.options.erasure).items())

    def measured(self, suite: Suite) -> Measured:
        """Draw, judge and report. Erasures that were given come first, also those that are not the paper's."""
        pipe = load_pipeline(self.options)
        for erasure, _ in self.given:
            check_base(erasure, pipe)
        parts = [*self.given, *((erasure, 1.0) for erasure in self._trained(pipe))]
        together = [("all together", parts)] if parts and self.are_together else []
        alone = [] if self.are_together else [(erasure.name, [(erasure, scale)]) for erasure, scale in parts]
        baselines = self._baselines()
        report = evaluate(
            pipe,
            suite=suite,
            output_dir=self.options.output / "evaluation",
            methods=[*(_erased(name, own, suite.prompts) for name, own in together + alone), *baselines],
            options={} if self.options.steps is None else {"num_inference_steps": self.options.steps},
            batch_size=self.options.batch_size,
            keep_images=not self.options.no_images,
        )
        found = {erasure.name: t for erasure, _ in parts for t in self.trainings if t.fits(erasure)}
        return Measured(report, found, {method.name: t for method, t in baselines.items()})

    def _baselines(self) -> dict[Method, Training]:
        """Other ways to keep the concepts out of images; each concept once, or all together."""
        by_concept = {training.concept: training for training in self.trainings}
        groups = [list(by_concept)] if self.are_together else [[concept] for concept in by_concept]
        return {
            make(concepts, f"{name}: {concepts[0] if len(concepts) == 1 else 'all'}"): by_concept[concepts[0]]
            for name in dict.fromkeys(self.options.baseline)
            for make in [BASELINES[name]]
            for concepts in groups
        }

    def _trained(self, pipe: Any) -> list[Erasure]:
        """The paper's erasures that were not given, trained or read from where they were trained."""
        if not self.options.train:
            return []
        missing = [t for t in self.trainings if not any(t.fits(erasure) for erasure, _ in self.given)]
        return [self._of(pipe, training) for training in missing]

    def _of(self, pipe: Any, training: Training) -> Erasure:
        folder = self.options.output / "erasures" / training.name
        config = training.config(self.changes)
        if is_finished(folder):
            erasure = Erasure.from_pretrained(folder)
            if erasure.config != config:
                raise ValueError(f"{folder} was trained with other settings; give another --output, or delete it.")
            return erasure
        own = {"output_dir": self.options.output / "training", "resume": "latest"}
        run = RunConfig(**{**self.run_changes, **own})
        erasure = ESDTrainer(pipe, config, run=run).erase(training.concept, name=training.name)
        erasure.remove(pipe)
        if not erasure.provenance.complete:
            raise KeyboardInterrupt
        joined(pipe.device).from_main(lambda: erasure.save_pretrained(folder))
        return erasure


def _erased(name: str, parts: Sequence[tuple[Erasure, float]], prompts: PromptSet) -> Method:
    """Erasures as a method, whose concepts are called as the prompts call them: "a church" is their "church"."""
    words = {plain(prompt.concept): prompt.concept for prompt in prompts}
    method = Erased(name, parts)
    method.erases = tuple(words.get(plain(concept), concept) for concept in method.erases)
    return method


def plain(name: str) -> str:
    """What two spellings of a concept share: no case, no article, no punctuation."""
    words = re.sub(r"[^\w]+", " ", name.casefold()).split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in ("a", "an", "the") else words)
