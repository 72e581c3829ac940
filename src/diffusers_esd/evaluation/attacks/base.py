"""`Attack`: what every attack has.

An attack prepares something under a method, such as a learned token, and then draws its prompts with it. Its success is
the rate at which a judge recognises the concept. It means something beside three rates: of the base model under the
same attack (the most that it can reach), of the same attack for another concept (which must not raise the rate), and of
a concept that no training ever had (how much the attack teaches, not recovers).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from diffusers import DiffusionPipeline

from ..judges.base import Picture
from ..methods import Draw
from ..prompts import Prompt


class Attack(ABC):
    """An attack.

    Attributes:
        name: What it is called in a report; the group of its prompts.
        prompts: What is drawn once it is prepared; each has the concept, and the label that the judge looks for.
        targets: The cases whose images, drawn by the base model, the attack learns from; empty if it needs none.
    """

    name: str
    prompts: tuple[Prompt, ...]
    targets: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Name and concept: what distinguishes it from the attacks of an evaluation on other concepts."""
        return f"{self.name}: {self.prompts[0].concept}"

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """The settings of the attack, as JSON types."""

    def check(self, pipe: DiffusionPipeline) -> None:  # noqa: B027
        """Refuse a pipeline that this attack cannot be used with, before anything is drawn.

        Raises:
            TypeError: If it is of a kind that the attack does not know.
            ValueError: If a part of it does not fit.
        """

    @abstractmethod
    def drawing(self, pipe: DiffusionPipeline, draw: Draw, targets: Sequence[Picture]) -> AbstractContextManager[Draw]:
        """Prepare the attack, and yield the function that draws its prompts.

        Nothing that was learned stays on the pipeline or is written to a file.

        Args:
            pipe: The pipeline that draws, with the method active on it: what `Method.pipeline` returns.
            draw: The method's function that draws.
            targets: The base model's images of `self.targets`.
        """
