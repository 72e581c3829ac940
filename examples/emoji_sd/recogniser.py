"""`EmojiJudge`: this model's judge, for an evaluation with `diffusers_esd.evaluation`.

It recognises what a caption names: `"a cat"` is the object cat, and `"art in mono style"` the style mono. Its findings
are the most probable object and the most probable style, as captions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from diffusers.image_processor import VaeImageProcessor

from diffusers_esd.evaluation.judges import base
from diffusers_esd.files import digest

from .judge import Judge
from .preset import PresetName
from .vocabulary import STYLES


class EmojiJudge(base.Judge):
    """Which object and which style is in an image.

    Args:
        preset: Which model's judge.
        question: The key of `Prompt.labels` that it answers.
    """

    kind: ClassVar[base.Kind] = "recognises"

    def __init__(self, preset: PresetName = "small", question: str = "subject") -> None:
        self._judge = Judge.from_pretrained(preset=preset)
        self.name = "emoji judge" if question == "subject" else f"emoji judge, {question}"
        self.question, self._preset = question, preset
        vocabulary = self._judge.vocabulary
        self._objects = [vocabulary.phrase(word) for word in vocabulary.objects]
        self._styles = [f"art in {style} style" for style in STYLES]

    def record(self) -> dict[str, Any]:
        """The preset and the weights."""
        return {"preset": self._preset, "weights": digest(self._judge.state_dict())}

    def knows(self, label: str) -> bool:
        """Whether it is the caption of an object or of a style."""
        return label in self._objects or label in self._styles

    def __call__(self, pictures: Sequence[base.Picture]) -> list[tuple[base.Finding, ...]]:
        """The most probable object and style of each image."""
        images = VaeImageProcessor.pil_to_numpy([picture.image for picture in pictures])
        seen = self._judge(VaeImageProcessor.numpy_to_pt(images) * 2 - 1)
        found = []
        for objects, styles in zip(seen.objects, seen.styles, strict=True):
            best = [(self._objects, objects), (self._styles, styles)]
            found.append(tuple(base.Finding(names[p.argmax()], p.max().item()) for names, p in best))
        return found
