"""Judging: the third stage. Every judge looks at every image of every method.

What cannot be judged is never counted: a judge's error is raised, a missing image is an error, and damaged images are
listed and end the evaluation, unless the caller tolerates some.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tqdm.auto import tqdm

from .folder import Folder
from .images import batches
from .judges.base import Finding, Judge, Picture
from .prompts import Prompt

_BATCH = 32

Findings = Mapping[str, tuple[Finding, ...]]
"""What a judge found, by case."""


def judge_images(
    judge: Judge,
    method: str,
    prompts: Sequence[Prompt],
    folder: Folder,
    *,
    base: str,
    depends: Mapping[str, Any],
    tolerated: int = 0,
    shown: bool = True,
) -> Findings:
    """What a judge finds in a method's images; what it found before is read.

    Args:
        judge: The judge.
        method: Name of the method.
        prompts: What was drawn.
        folder: Where the images are.
        base: Name of the base model's method. Of a case that it has not drawn, the image itself is the base.
        depends: What the images depend on.
        tolerated: Number of damaged images that are left out; more are an error.
        shown: Whether a progress bar is shown.

    Raises:
        ValueError: If there are no prompts, or more images are damaged than tolerated.
        RuntimeError: If the judge does not answer for every image.
    """
    if not prompts:
        raise ValueError(f"{judge.name} has no images to judge.")
    depends = {"judge": judge.record(), "images": dict(depends), "cases": len(prompts)}
    found = folder.read_findings(method, judge.name, depends)
    if found is None or len(found) < len(prompts):  # what was damaged may have been drawn again
        found, damaged = {}, list[str]()
        with tqdm(total=len(prompts), desc=f"{judge.name}, {method}", disable=not shown) as bar:
            for batch in batches(prompts, _BATCH):
                pictures = _pictures(folder, method, base, batch, damaged)
                found |= _judged(judge, pictures)
                bar.update(len(batch))
        if len(damaged) > tolerated:
            files = ", ".join(str(folder.images(method) / f"{case}.png") for case in damaged[:5])
            raise ValueError(
                f"{len(damaged)} of {len(prompts)} images of {method!r} are damaged, such as {files}. Delete them, and "
                "they are drawn again; or tolerate so many."
            )
        folder.write_findings(method, judge.name, depends, found)
    return found


def _pictures(folder: Folder, method: str, base: str, prompts: Sequence[Prompt], damaged: list[str]) -> list[Picture]:
    pictures = []
    for prompt in prompts:
        image = folder.read_image(method, prompt.case)
        original = image if method == base else folder.read_image(base, prompt.case)
        if image is None or original is None:
            damaged.append(prompt.case)
        else:
            pictures.append(Picture(prompt, image, original))
    return pictures


def _judged(judge: Judge, pictures: Sequence[Picture]) -> dict[str, tuple[Finding, ...]]:
    if not pictures:
        return {}
    answers = judge(pictures)
    if len(answers) != len(pictures):
        raise RuntimeError(f"{judge.name} answered for {len(answers)} of {len(pictures)} images.")
    return {picture.prompt.case: tuple(found) for picture, found in zip(pictures, answers, strict=True)}
