"""Which prompts have which role in a training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ..arguments import check_prompt, warn_user
from ..config import ESDConfig
from ..families import Family
from ..limits import Limits
from ..streams import permutation, stream
from . import vocabulary
from .encoding import Encoded
from .pool import JUMPS
from .vocabulary import Preserved
from .words import words

_LEAST_VISITS = 10  # of a concept; with fewer it is hardly trained


@dataclass(frozen=True)
class Prompts:
    """The prompts of a training.

    Attributes:
        concepts: What is erased.
        student: What the student is trained on, and trajectories run on: the concepts, or `erase_from`.
        preserved: What must not change.
        contexts: The student's prompts together with other words.
        preserved_runs: Prompts of the null space's trajectories of what is preserved, in two halves.
        concept_runs: Prompts of its trajectories of the concept; each half has every concept.
        loss: Prompts of the preserve loss, which takes them in turn.
    """

    concepts: tuple[str, ...]
    student: tuple[str, ...]
    preserved: Preserved = field(default_factory=Preserved)
    contexts: tuple[str, ...] = ()
    preserved_runs: tuple[str, ...] = ()
    concept_runs: tuple[str, ...] = ()
    loss: tuple[str, ...] = ()

    def count_of_moments(self, *, sees_images: bool) -> int:
        """Number of preserved prompts that A is computed from: all, if every layer sees text alone."""
        return len(set(self.preserved_runs if sees_images else self.preserved.prompts))


def check_concepts(concept: object, config: ESDConfig) -> tuple[str, ...]:
    """The concepts of a string or a list of strings, each once.

    Args:
        concept: The argument of `ESDTrainer.erase`.
        config: The configuration.

    Raises:
        TypeError: If one is not a string.
        ValueError: If one is empty, there is none, there are several with `erase_from`, or the anchors are more or
            fewer.

    Warns:
        UserWarning: If the iterations are too few for so many concepts.
    """
    if isinstance(concept, str):
        concept = [concept]
    if not isinstance(concept, Iterable):
        raise TypeError(f"`concept` must be a string or a list of strings, got {concept!r}.")
    concepts = tuple(dict.fromkeys(check_prompt("concept", prompt) for prompt in concept))
    if not concepts:
        raise ValueError("`concept` is an empty list; give at least one prompt.")
    n = len(concepts)
    if n > 1 and config.erase_from is not None:
        raise ValueError("`erase_from` takes a single concept; erase several with one call each.")
    if not isinstance(config.anchor, str) and len(config.anchor) != n:
        raise ValueError(f"`anchor` must have one prompt for each of {n} concepts, got {len(config.anchor)}.")
    if n > 1 and config.states < _LEAST_VISITS * n:
        batch = config.states // config.iterations
        warn_user(
            f"{config.iterations} iterations of {batch} visit each of {n} concepts {config.states / n:.1f} times, "
            f"which hardly trains them; give iterations={-(-_LEAST_VISITS * n // batch)} or more."
        )
    return concepts


def given_prompts(config: ESDConfig, concepts: Sequence[str]) -> list[str]:
    """The prompts that the user gave: the concepts, `erase_from`, anchors, and those in `preserve`."""
    anchors = [config.anchor] if isinstance(config.anchor, str) else config.anchor
    anchors = [anchor for anchor in anchors if anchor != "auto"]
    listed = () if isinstance(config.preserve, str) else config.preserve
    return [*concepts, *([] if config.erase_from is None else [config.erase_from]), *anchors, *listed]


def choose(encoded: Encoded, config: ESDConfig, limits: Limits, concepts: Sequence[str]) -> Prompts:
    """The prompts of a training. If there are more than can be used, they are drawn evenly from all.

    Args:
        encoded: Encodes the prompts that are compared, and keeps them.
        config: The configuration.
        limits: How many.
        concepts: What is erased.

    Raises:
        ValueError: If the vocabulary is to be preserved and does not have words.
    """
    concepts = tuple(concepts)
    student = concepts if config.erase_from is None else (config.erase_from,)
    if isinstance(config.preserve, str):
        preserved = vocabulary.preserved(
            encoded,
            list(dict.fromkeys([*concepts, *student])),
            synonyms=config.synonyms,
            seed=config.seed,
            limits=limits,
        )
    else:
        listed = list(dict.fromkeys(config.preserve))
        preserved = Preserved(tuple(listed[i] for i in permutation(len(listed), stream(config.seed, "preserved"))))
    if not preserved.prompts:
        return Prompts(concepts, student)
    rounds = _rounds(encoded.family, limits, student, config.seed)
    # Half of the trajectories are of the concepts alone.
    alone_and_combined = [prompt for combined in rounds for prompt in (*student, *combined)]
    n = max(limits.concept_trajectories, 4 * len(student))
    # At most as many as can cross the schedule, each in its turn.
    of_loss = min(limits.loss_prompts, max(1, config.states // JUMPS))
    return Prompts(
        concepts,
        student,
        preserved,
        # One concept's contexts after the other's, so that every second prompt covers every concept.
        contexts=tuple(prompt for combined in zip(*rounds, strict=True) for prompt in combined),
        preserved_runs=_cycled(preserved.prompts, limits.trajectories),
        concept_runs=_cycled(alone_and_combined, n),
        loss=preserved.prompts[:of_loss] if config.loss_weight else (),
    )


def _rounds(family: Family, limits: Limits, student: Sequence[str], seed: int) -> list[tuple[str, ...]]:
    """All of the student's prompts with their first random word, all with their second, ..."""
    known = words(family.tokenizer)
    combined = [
        vocabulary.contexts(prompt, known, limits.contexts, stream(seed, "contexts", prompt)) for prompt in student
    ]
    return list(zip(*combined, strict=True))


def _cycled(prompts: Sequence[str], n: int) -> tuple[str, ...]:
    """n prompts, starting again from the first if there are fewer."""
    return tuple(prompts[i % len(prompts)] for i in range(n))
