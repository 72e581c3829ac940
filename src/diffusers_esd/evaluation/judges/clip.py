"""Judges that use a CLIP model: `CLIPScore`, `CLIPZeroShot` and `CLIPSimilarity`.

Publications print the cosine of an image and a text in different scales: as it is (0.16 to 0.3), times 100, or times
2.5. The scores here are cosines. `record` names the model: only scores of the same model can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from PIL.Image import Image
from torch import Tensor

from ...arguments import check_prompts
from .base import Finding, Judge, Kind, Picture
from .clip_model import CLIP, VIT_L_14

__all__ = ["CLIP", "VIT_L_14", "CLIPScore", "CLIPSimilarity", "CLIPZeroShot"]

_TEMPLATE = "a photo of {}"


class _Cosine(Judge):
    kind: ClassVar[Kind] = "scores"

    def __init__(self, clip: CLIP | None = None) -> None:
        self._clip = clip or CLIP()

    def record(self) -> dict[str, Any]:
        """The model and the scale."""
        return {**self._clip.record(), "scale": "cosine"}


class CLIPScore(_Cosine):
    """How well an image fits its prompt: the cosine of their vectors.

    Args:
        clip: The model; `None` means `CLIP()`.
    """

    name = "clip_score"
    better = "higher"

    def __call__(self, pictures: Sequence[Picture]) -> list[tuple[Finding, ...]]:
        """The cosine of each image and its prompt.

        Raises:
            ValueError: If there are no images.
        """
        images = self._clip.images([picture.image for picture in pictures])
        texts = self._clip.texts([picture.prompt.text for picture in pictures])
        return [(Finding("clip_score", value),) for value in (images * texts).sum(1).tolist()]


class CLIPSimilarity(_Cosine):
    """How similar an image is to the base model's: the cosine of their vectors, 1 if they are equal.

    Args:
        clip: The model; `None` means `CLIP()`.
    """

    name = "clip_similarity"

    def __call__(self, pictures: Sequence[Picture]) -> list[tuple[Finding, ...]]:
        """The cosine of each image and the base model's.

        Raises:
            ValueError: If there are no images.
        """
        images = self._clip.images([picture.image for picture in pictures])
        bases = self._clip.images([picture.base for picture in pictures])
        return [(Finding("clip_similarity", value),) for value in (images * bases).sum(1).tolist()]


class CLIPZeroShot(Judge):
    """Which of several labels fits an image best.

    Args:
        labels: The labels to choose from; two at least.
        template: The text of a label: `"a photo of {}"`.
        clip: The model; `None` means `CLIP()`.
        name: Name of the judge.
        question: The key of `Prompt.labels` that it answers.

    Raises:
        ValueError: If there are fewer than two labels, one is there twice, or the template has no place for a label.
    """

    kind: ClassVar[Kind] = "recognises"

    def __init__(
        self,
        labels: Sequence[str],
        *,
        template: str = _TEMPLATE,
        clip: CLIP | None = None,
        name: str = "clip_zero_shot",
        question: str = "subject",
    ) -> None:
        self.labels = check_prompts("labels", labels)
        if len(set(self.labels)) < max(2, len(self.labels)):
            raise ValueError(f"`labels` must be two or more, all different; got {list(self.labels)}.")
        if template.count("{}") != 1:
            raise ValueError(f"`template` must have one {{}} in the place of the label, got {template!r}.")
        self.name, self.question, self._template, self._clip = name, question, template, clip or CLIP()
        self._texts = self._clip.texts([template.format(label) for label in self.labels])

    def record(self) -> dict[str, Any]:
        """The model, the labels and their template."""
        return {
            **self._clip.record(),
            "labels": list(self.labels),
            "template": self._template,
            "question": self.question,
        }

    def knows(self, label: str) -> bool:
        """Whether a label is one of those to choose from."""
        return label in self.labels

    def __call__(self, pictures: Sequence[Picture]) -> list[tuple[Finding, ...]]:
        """The label that fits each image best, with its probability among the labels.

        Raises:
            ValueError: If there are no images.
        """
        best = self.probabilities([picture.image for picture in pictures]).max(1)
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [(Finding(self.labels[number], score),) for number, score in rows]

    def probabilities(self, images: Sequence[Image]) -> Tensor:
        """The probability of each label (N, labels); a row adds up to 1."""
        return (self._clip.scale * self._clip.images(images) @ self._texts.T).float().softmax(1)

    def ranks(self, images: Sequence[Image], label: str) -> list[int]:
        """The rank of a label in each image, from 1.

        Raises:
            ValueError: If the label is not one of those to choose from.
        """
        if label not in self.labels:
            raise ValueError(f"`label` must be one of {', '.join(map(repr, self.labels))}; got {label!r}.")
        probabilities = self.probabilities(images)
        own = probabilities[:, self.labels.index(label)]
        return [1 + n for n in (probabilities > own[:, None]).sum(1).tolist()]
