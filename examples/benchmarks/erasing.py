"""Seconds until a concept is gone, and what is kept then, by way of training, on `emoji_sd`.

Drawing and judging images is not counted. Each way has its own learning rate: the published loop the paper's and
ten times that, ours that of `emoji_sd.settings`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from emoji_sd import STYLES, Judge, load, phrase, plain, rates, settings, some_pairs

from diffusers_esd import ESDConfig, ESDTrainer

from .published_loop import PublishedTraining

WORD = "cat"
GONE = 0.05  # the concept is gone below this rate
_IMAGES = 8  # of the concept in each style
_NEXT = 1.35  # number of updates at the next look, by that at the last one
_FIRST = 20

_PUBLISHED = {"trajectory": "fresh", "preserve": (), "null_space": False, "num_inference_steps": 50}
WAYS: dict[str, dict[str, Any]] = {
    "published loop": {**_PUBLISHED, "learning_rate": 1e-5},
    "published loop, ten times the learning rate": {**_PUBLISHED, "learning_rate": 1e-4},
    "ours, fresh": {**plain("esd-u"), "trajectory": "fresh", "null_space": False},
    "ours": {**plain("esd-u"), "null_space": False},
    "ours, default": settings("esd-u"),
}
"""Fields of `ESDConfig` by way."""


@dataclass(frozen=True)
class Erased:
    """Where a training was when the concept was gone, or when it ended.

    Attributes:
        updates: Optimiser updates.
        states: Training states in them.
        seconds: Time of these, with what comes before the first.
        erased: Share of the images in which the concept is still recognised.
        others: Share of the images of other objects in which the object is recognised.
    """

    updates: int
    states: int
    seconds: float
    erased: float
    others: float


class Clock:
    """Counts seconds and updates, and looks at the images now and then.

    Args:
        erased: Draws, and returns the rate of the concept.
    """

    def __init__(self, erased: Callable[[], float]) -> None:
        self._erased, self._look_at = erased, _FIRST
        self.updates, self.seconds, self.rate = 0, 0.0, 1.0
        self._since = time.monotonic()

    def tick(self) -> bool:
        """After an update: whether the concept is gone."""
        self.seconds += time.monotonic() - self._since
        self.updates += 1
        if self.updates == self._look_at:
            self.look()
            self._look_at = max(self.updates + 1, round(self.updates * _NEXT))
        self._since = time.monotonic()
        return self.rate < GONE

    def look(self) -> None:
        """Measure the rate."""
        self.rate = self._erased()


def erasing(way: str, seconds: float, images: int = _IMAGES, **fields: Any) -> Erased:
    """Train until the concept is gone.

    Args:
        way: Name in `WAYS`.
        seconds: The longest time.
        images: Images of the concept in each style.
        fields: Other fields of `ESDConfig` to change.
    """
    pipe, judge = load(), Judge.from_pretrained()
    pipe.set_progress_bar_config(disable=True)
    pairs = [(WORD, style) for style in STYLES] * images
    # The images decide when it ends, not the alignment.
    config = ESDConfig(**{"group": "esd-u", **WAYS[way], "stop_at_alignment": None, **fields})
    trained = pipe
    if way.startswith("published"):
        training = PublishedTraining(pipe, phrase(WORD), config)
        trained = training.student
        trained.set_progress_bar_config(disable=True)
    clock = Clock(lambda: rates(trained, judge, pairs).object(WORD))

    def is_over() -> bool:
        return clock.tick() or clock.seconds > seconds

    if way.startswith("published"):
        for _ in training.run(config.iterations):
            if is_over():
                break
    else:
        ESDTrainer(pipe, config).erase(phrase(WORD), callback=lambda progress: "stop" if is_over() else None)
    clock.look()
    others = rates(trained, judge, some_pairs(2)).other_objects(WORD)
    return Erased(clock.updates, clock.updates * config.batch_size, clock.seconds, clock.rate, others)


def table(outcomes: Iterable[tuple[str, Erased]]) -> Iterator[str]:
    """Lines of Markdown, one after the other."""
    yield f"| | seconds until erased < {GONE:g} | updates | training states | erased | other objects |"
    yield "|---|---|---|---|---|---|"
    for name, found in outcomes:
        seconds = f"{found.seconds:.0f}" if found.erased < GONE else f"not in {found.seconds:.0f}"
        counts = f"{found.updates} | {found.states}"
        yield f"| {name} | {seconds} | {counts} | {found.erased:.2f} | {found.others:.2f} |"
