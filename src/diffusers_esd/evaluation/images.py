"""Images: the second stage. Every method draws every prompt that has no image yet.

Under a launcher, such as `accelerate launch`, each process draws its share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from ..pictures.draw import without_bars
from ..provenance import package_versions
from ..training.processes import Processes
from .attacks.base import Attack
from .folder import Folder
from .judges.base import Picture
from .methods import Draw, Method
from .prompts import Prompt, PromptSet

T = TypeVar("T")


def draw_images(
    pipe: Any,
    method: Method,
    prompts: PromptSet,
    attacks: Sequence[Attack],
    folder: Folder,
    *,
    base: str,
    options: Mapping[str, Any],
    batch_size: int,
    processes: Processes,
) -> None:
    """Draw what is missing.

    Args:
        pipe: The base model's pipeline; it is left as it was found.
        method: How to draw.
        prompts: What to draw.
        attacks: What to draw under attack; the base model's images of their targets must exist.
        folder: Where the images are.
        base: Name of the base model's method.
        options: Arguments of the pipeline's call.
        batch_size: Images in one call.
        processes: Who draws.

    Raises:
        ValueError: If the folder has images of another evaluation.
        OSError: If an image cannot be written. What was drawn so far stays.
    """
    manifest = {
        "prompts": prompts.digest(),
        "options": dict(options),
        "method": method.record(pipe),
        "attacks": {attack.title: attack.record() for attack in attacks},
        "versions": package_versions(),
    }
    processes.from_main(lambda: folder.begin(method.name, manifest))
    # The main process says what is missing: another may look when images of this call are there already.
    plain, of_attacks = processes.from_main(
        lambda: (
            _missing(folder, method, prompts.prompts),
            [_missing(folder, method, attack.prompts) for attack in attacks],
        )
    )
    attacked = [(attack, missing) for attack, missing in zip(attacks, of_attacks, strict=True) if missing]
    if plain or attacked:
        total = len(plain) + sum(len(missing) for _, missing in attacked)
        with pipe.progress_bar(total=total) as bar, without_bars(pipe), method.drawing(pipe, options) as draw:
            bar.set_description(f"images, {method.name}")
            bar.disable = bar.disable or not processes.is_main  # one process shows the bar
            _draw(draw, plain, folder, method, batch_size, processes, bar)
            for attack, missing in attacked:
                targets = pictures_of(folder, base, attack, prompts)
                with attack.drawing(method.pipeline(pipe), draw, targets) as attacking:
                    _draw(attacking, missing, folder, method, batch_size, processes, bar)
    processes.from_main(lambda: None)  # no process goes on before all images are there


def pictures_of(folder: Folder, base: str, attack: Attack, prompts: PromptSet) -> list[Picture]:
    """The base model's images of an attack's targets.

    Raises:
        ValueError: If a target is not a case, or its image is damaged.
    """
    by_case = {prompt.case: prompt for prompt in prompts}
    pictures = []
    for case in attack.targets:
        if case not in by_case:
            raise ValueError(f"The attack {attack.name!r} learns from the case {case!r}, which is not in the prompts.")
        image = folder.read_image(base, case)
        if image is None:
            raise ValueError(f"The image of {case!r}, from which {attack.name!r} learns, is damaged; delete it.")
        pictures.append(Picture(by_case[case], image, image))
    return pictures


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Items in batches; the last one may be smaller."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _missing(folder: Folder, method: Method, prompts: Sequence[Prompt]) -> list[Prompt]:
    cases = set(folder.missing(method.name, [prompt.case for prompt in prompts]))
    return [prompt for prompt in prompts if prompt.case in cases]


def _draw(
    draw: Draw,
    prompts: Sequence[Prompt],
    folder: Folder,
    method: Method,
    batch_size: int,
    processes: Processes,
    bar: Any,
) -> None:
    own = prompts[processes.rank :: processes.number]
    for batch in batches(own, batch_size):
        for prompt, image in zip(batch, draw(batch), strict=True):
            folder.write_image(method.name, prompt.case, image)
        bar.update(len(batch) * processes.number)
