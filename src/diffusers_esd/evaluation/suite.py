"""`Suite`: what an evaluation asks: prompts, judges, attacks, and measures of whole sets of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .attacks.base import Attack
from .distances import SetMeasure
from .judges.base import Judge
from .prompts import Prompt, PromptSet


@dataclass(frozen=True)
class Suite:
    """What an evaluation asks.

    Attributes:
        name: Its name.
        prompts: What is drawn.
        judges: Who looks at the images.
        groups: What each group of prompts asks, in a sentence.
        attacks: What is tried against each method.
        measures: Of all images of a method together, beside those of the base model.
        reference: Folder of real images for the measures; `None` compares with the base model's.
        options: Arguments of the pipeline's call, such as `num_inference_steps`.
        notes: What a reader of the report must know.
    """

    name: str
    prompts: PromptSet
    judges: tuple[Judge, ...]
    groups: Mapping[str, str] = field(default_factory=dict)
    attacks: tuple[Attack, ...] = ()
    measures: tuple[SetMeasure, ...] = ()
    reference: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (self.judges or self.measures):
            raise ValueError(f"The suite {self.name!r} has no judge; give at least one.")
        PromptSet(self.name, self.everything)  # refuses cases that occur twice
        for judge in self.judges:
            if judge.kind == "recognises":
                self._check_asked(judge)

    def _check_asked(self, judge: Judge) -> None:
        """Refuse a judge that no prompt asks anything that it knows: it would judge every image and say nothing."""
        asked = {pair for prompt in self.everything for pair in prompt.labels.items()}
        if not any(question == judge.question and judge.knows(label) for question, label in asked):
            questions, labels = sorted({question for question, _ in asked}), sorted({label for _, label in asked})
            raise ValueError(
                f"The judge {judge.name!r} answers the question {judge.question!r}, and knows none of the prompts' "
                f"labels; they ask {', '.join(questions) or 'nothing'}: {', '.join(labels[:5])}."
            )

    @property
    def everything(self) -> tuple[Prompt, ...]:
        """The prompts, and those of the attacks."""
        return self.prompts.prompts + tuple(prompt for attack in self.attacks for prompt in attack.prompts)
