"""Which prompts play which part in a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from . import vocabulary
from ..config import ESDConfig
from ..families import Family
from ..limits import Limits
from .pool import JUMPS
from ..streams import permutation, stream
from .vocabulary import Preserved


@dataclass(frozen=True)
class Prompts:
    """The prompts of a training.

    Attributes:
        student: What the student is trained on, and trajectories run on: the concepts, or `erase_from`.
        preserved: What must stay.
        contexts: The student's prompts in the company of other words.
        of_kept: Preserved prompts of the null space's trajectories, those held out last.
        of_concept: The student's and their contexts, the second half held out.
        of_loss: Preserved prompts that the loss takes in turn.
    """

    student: tuple[str, ...]
    preserved: Preserved
    contexts: tuple[str, ...] = ()
    of_kept: tuple[str, ...] = ()
    of_concept: tuple[str, ...] = ()
    of_loss: tuple[str, ...] = ()

    def count_of_moments(self, limits: Limits, *, sees_pictures: bool) -> int:
        """How many of the preserved prompts A is computed from: all, where layers see nothing but text."""
        return len(set(self.of_kept[: limits.trajectories] if sees_pictures else self.preserved.prompts))


def choose(family: Family, config: ESDConfig, limits: Limits, concepts: Sequence[str]) -> Prompts:
    """The prompts of a training; a list of the user's is drawn from evenly where it is longer than what is looked at.

    Args:
        family: The family; its tokenizer and text encoder are used.
        config: The configuration.
        limits: How many.
        concepts: What is erased.

    Raises:
        ValueError: If the vocabulary is to be preserved and has no words.
    """
    student = tuple(concepts) if config.erase_from is None else (config.erase_from,)
    if isinstance(config.preserve, str):
        preserved = vocabulary.preserved(
            family, list(dict.fromkeys([*concepts, *student])), seed=config.seed, limits=limits
        )
    else:
        listed = list(dict.fromkeys(config.preserve))
        preserved = Preserved(tuple(listed[i] for i in permutation(len(listed), stream(config.seed, "preserved"))))
    if not preserved.prompts:
        return Prompts(student, preserved)
    turns = _turns(family, limits, student, config.seed)
    # Half of the trajectories are of the concepts alone.
    alone_and_not = [prompt for turn in turns for prompt in (*student, *turn)]
    n = max(limits.concept_trajectories, 2 * len(student))
    # No more than can cross the schedule, each in its turn.
    of_loss = min(limits.loss_prompts, max(1, config.states // JUMPS))
    return Prompts(
        student,
        preserved,
        # One concept's after the other's, so that every other one is of every concept.
        contexts=tuple(prompt for company in zip(*turns, strict=True) for prompt in company),
        of_kept=_cycled(preserved.prompts, limits.trajectories + limits.held_out),
        of_concept=_cycled(alone_and_not, 2 * n),
        of_loss=preserved.prompts[:of_loss] if config.loss_weight else (),
    )


def _turns(family: Family, limits: Limits, student: Sequence[str], seed: int) -> list[tuple[str, ...]]:
    """All of the student's prompts in their first company, all in their second, ..."""
    known = vocabulary.words(family.tokenizer)
    company = [
        vocabulary.contexts(prompt, known, limits.contexts, stream(seed, "contexts", prompt)) for prompt in student
    ]
    return list(zip(*company, strict=True))


def _cycled(prompts: Sequence[str], n: int) -> tuple[str, ...]:
    """n prompts, again from the first where there are fewer."""
    return tuple(prompts[i % len(prompts)] for i in range(n))
