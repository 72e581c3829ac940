"""`NegativePrompt`: guidance moves away from the concept. No weight changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from inspect import signature
from typing import Any

from diffusers import DiffusionPipeline
from PIL.Image import Image

from ...arguments import check_prompt
from ..methods import Draw, Method, base_record, drawer
from ..prompts import Prompt


class NegativePrompt(Method):
    """The concepts, added to the negative prompt of every image.

    Args:
        concepts: The concepts, at least one.
        name: Name of the column.

    Raises:
        TypeError: If a concept is not a string.
        ValueError: If there is no concept, or one is empty.
    """

    def __init__(self, concepts: Sequence[str], *, name: str = "negative-prompt") -> None:
        self.name, self.erases = name, checked(concepts)

    def record(self, pipe: DiffusionPipeline) -> dict[str, Any]:
        """The base weights, and the text that is added."""
        return {**base_record(pipe), "negative_prompt": ", ".join(self.erases)}

    def check(self, pipe: DiffusionPipeline) -> None:
        """Refuse a pipeline without negative prompts.

        Raises:
            ValueError: If its call takes none.
        """
        if "negative_prompt" not in signature(type(pipe).__call__).parameters:
            raise ValueError(f"A {type(pipe).__name__} takes no negative prompt; leave out this method.")

    @contextmanager
    def drawing(self, pipe: DiffusionPipeline, options: Mapping[str, Any]) -> Iterator[Draw]:
        """Draws with the pipeline, which must use classifier-free guidance."""
        draw_as_it_is = drawer(pipe, options)

        def draw(prompts: Sequence[Prompt], **more: Any) -> list[Image]:
            return draw_as_it_is([self._with_concepts(prompt) for prompt in prompts], **more)

        yield draw

    def _with_concepts(self, prompt: Prompt) -> Prompt:
        parts = [prompt.negative_prompt, *self.erases]
        return replace(prompt, negative_prompt=", ".join(part for part in parts if part))


def checked(concepts: Sequence[str]) -> tuple[str, ...]:
    """The concepts of a method.

    Raises:
        TypeError: If one is not a string, or they are one string.
        ValueError: If there is none, or one is empty.
    """
    if isinstance(concepts, str):
        raise TypeError(f"`concepts` must be a sequence of strings, got {concepts!r}; give [{concepts!r}].")
    if not concepts:
        raise ValueError("`concepts` is empty; give at least one concept.")
    for concept in concepts:
        check_prompt("concepts", concept)
    return tuple(concepts)
