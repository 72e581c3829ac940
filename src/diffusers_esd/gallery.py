"""The images of a card: which of them may be published, and their files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL.Image import Image

from .arguments import warn_user

_EXPLICIT = re.compile(
    r"(?<![a-z])(nud\w*|naked|nsfw|porn\w*|sex\w*|erotic\w*|genital\w*|gore\w*|blood\w*|violen\w*|suicid\w*)(?![a-z])"
)


def is_explicit(prompts: Sequence[str]) -> bool:
    """Whether one of the prompts names something whose images are shown only on request: nudity, violence."""
    return any(_EXPLICIT.search(prompt.lower()) for prompt in prompts)


def publishable(images: Mapping[str, Image], concepts: Sequence[str], *, explicit: bool) -> dict[str, Image]:
    """The images that a card may show.

    Args:
        images: Images (PIL) by prompt.
        concepts: The erased concepts.
        explicit: Whether images may be shown if a concept or a prompt is explicit.

    Returns:
        All images, or an empty dictionary.

    Warns:
        UserWarning: If images are left out.
    """
    if images and not explicit and is_explicit([*concepts, *images]):
        warn_user(
            "The images are left out, because one of these is explicit: "
            f"{', '.join(map(repr, [*concepts, *images]))}. Give explicit_pictures=True to publish them."
        )
        return {}
    return dict(images)


def write_images(folder: Path, images: Mapping[str, Image]) -> dict[str, str]:
    """Write the images of a gallery, and return their file names by prompt."""
    names = {prompt: f"images/{i:02d}.png" for i, prompt in enumerate(images)}
    for prompt, name in names.items():
        (folder / name).parent.mkdir(exist_ok=True)
        images[prompt].save(folder / name)
    return names
