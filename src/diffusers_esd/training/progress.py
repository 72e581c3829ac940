"""Progress of a training: the loss, and the alignment of each concept, smoothed over its visits.

Smoothed alignment is a ratio of two moving averages, `average(<e_student - e_null, u>) / average(<u, u>)` with
`u = e_cond - e_null`; `docs/theory.md` explains why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from ..erasure import Erasure

_SMOOTHING = 0.95  # of the averages, per visit of a concept
_LEAST_VISITS = 20  # before a concept can be done


@dataclass(frozen=True)
class Progress:
    """What a callback gets after an iteration.

    Attributes:
        iteration: Number of the iteration, from 1.
        loss: Loss of the iteration.
        alignment: Alignment of its states: 1 is intact, 0 the unconditional prediction, `-eta` the target.
        smoothed_alignment: Mean of the concepts' smoothed alignments.
        alignments: Smoothed alignment by prompt of the student, for the prompts that were drawn so far.
        learning_rate: Learning rate of the iteration.
    """

    iteration: int
    loss: float
    alignment: float
    smoothed_alignment: float
    alignments: Mapping[str, float]
    learning_rate: float

    # Not a field: it is not part of the value, and must not keep the training in memory.
    _make: ClassVar[Any] = None

    def __getstate__(self) -> dict[str, Any]:
        # What makes the erasure cannot be pickled or copied.
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def erasure(self) -> Erasure:
        """The erasure at this moment: a copy of its weights, on the CPU; `provenance.complete` is false.

        Nothing is copied if this is not called.

        Raises:
            RuntimeError: After the callback, when there are other weights.
        """
        if self._make is None:
            raise RuntimeError(
                "`progress.erasure()` is the erasure at this moment; call it in the callback, and keep the result."
            )
        return self._make()

    @contextmanager
    def current(self, make: Callable[[], Erasure]) -> Iterator[None]:
        """Inside, `erasure` returns what `make` makes."""
        object.__setattr__(self, "_make", make)
        try:
            yield
        finally:
            object.__delattr__(self, "_make")


Callback = Callable[[Progress], object]
"""Called after every iteration. If it returns `"stop"`, the training ends."""


class Alignments:
    """Smoothed alignments of several concepts.

    Args:
        bound: A concept is done at this alignment or below; `None` means never.
    """

    def __init__(self, bound: float | None) -> None:
        self._bound = bound
        self._averages: dict[str, tuple[float, float]] = {}
        self.visits: dict[str, int] = {}

    def update(self, prompts: Sequence[str], along: Sequence[float], length: Sequence[float]) -> None:
        """Add a batch to the averages.

        Args:
            prompts: B prompts.
            along: `<e_student - e_null, u>` of each.
            length: `<u, u>` of each.
        """
        batch: dict[str, tuple[float, float]] = {}
        for prompt, new, norm in zip(prompts, along, length, strict=True):
            a, b = batch.get(prompt, (0.0, 0.0))
            batch[prompt] = (a + new, b + norm)
        for prompt, (new, norm) in batch.items():
            a, b = self._averages.get(prompt, (0.0, 0.0))
            # Both averages start at 0, which cancels in their ratio.
            self._averages[prompt] = (_SMOOTHING * a + new, _SMOOTHING * b + norm)
            self.visits[prompt] = self.visits.get(prompt, 0) + 1

    def state_dict(self) -> dict[str, Any]:
        """The averages and the numbers of visits."""
        return {"averages": self._averages, "visits": self.visits}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._averages, self.visits = dict(state["averages"]), dict(state["visits"])

    def values(self) -> dict[str, float]:
        """The smoothed alignment of each prompt that was drawn."""
        return {prompt: a / max(b, 1e-30) for prompt, (a, b) in self._averages.items()}

    def mean(self) -> float | None:
        """Their mean; `None` before the first update."""
        values = self.values()
        return sum(values.values()) / len(values) if values else None

    def is_done(self, prompt: str) -> bool:
        """Whether a prompt was drawn often enough, and its alignment is at the bound or below."""
        if self._bound is None or self.visits.get(prompt, 0) < _LEAST_VISITS:
            return False
        a, b = self._averages[prompt]
        return a / max(b, 1e-30) <= self._bound
