"""`Judge`: what every judge has.

A judge looks at images and returns what it finds in each. Its `record` has all that its findings depend on: version,
weights, threshold. Two reports can be compared only if the records of their judges are equal. An error of a judge is
raised: an image that was not judged counts as nothing, never as "erased".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

from PIL.Image import Image

from ..prompts import Prompt

Kind = Literal["recognises", "detects", "scores"]


class Finding(NamedTuple):
    """Something that a judge finds in an image.

    Attributes:
        label: What it is. Of a judge that scores, the name of the score.
        score: Probability, confidence, or the score itself.
    """

    label: str
    score: float


class Picture(NamedTuple):
    """What a judge looks at.

    Attributes:
        prompt: The prompt.
        image: The image (PIL, RGB).
        base: The base model's image of the same case; the same image if this is the base model.
    """

    prompt: Prompt
    image: Image
    base: Image


class Judge(ABC):
    """What is in an image.

    Attributes:
        name: What the judge is called in a report; also the name of its file there.
        kind: `"recognises"`: it finds which subject is in an image, and the rate is the share of images in which the
            label that their prompt asks for is among the findings. `"detects"`: it finds any number of things of its
            `classes`, which are counted. `"scores"`: it finds one number, whose mean counts.
        question: Of a judge that recognises: the key of `Prompt.labels` that it answers.
        classes: Of a judge that detects: the labels that count.
        better: Of a judge that scores: whether a higher or a lower score is better; `""` if neither.
    """

    name: str
    kind: ClassVar[Kind]
    question: str = "subject"
    classes: tuple[str, ...] = ()
    better: Literal["higher", "lower", ""] = ""

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """Everything that the findings depend on, as JSON types: package and version, weights, threshold."""

    @abstractmethod
    def __call__(self, pictures: Sequence[Picture]) -> list[tuple[Finding, ...]]:
        """What is in each image.

        Args:
            pictures: A batch of images.

        Returns:
            The findings of each image. An image in which nothing is found has none.
        """

    def knows(self, label: str) -> bool:
        """Whether a judge that recognises can find this label."""
        return True
