"""`Limits`: the fixed numbers of vocabulary and null space. Few users change them; tests and benchmarks do."""

from __future__ import annotations

from dataclasses import dataclass

GENERIC = (
    "a person", "an animal", "a plant", "food", "a vehicle", "a building", "a place", "a thing", "clothes", "a tool",
    "furniture", "a toy", "a machine", "a landscape", "art", "a painting", "a drawing", "a photo", "a pattern",
)  # fmt: skip
"""General words for what images show."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How many prompts and trajectories are used, and which bounds apply.

    Attributes:
        words: Largest number of words of the vocabulary that are preserved because they are frequent.
        neighbours: Largest number of words that are preserved because they are nearest to the concept.
        pairs: Number of prompts with two words.
        near: A word whose cosine to the concept is at least this is a synonym: it is not preserved, and not an anchor.
        contexts: Number of words that the concept is combined with.
        loss_prompts: Largest number of prompts in the preserve loss.
        text_strength: Ridge of the moments of token states, relative to their mean diagonal. A smaller ridge removes
            more of what is preserved.
        state_strength: The same for all other layers. It grows if there are fewer inputs than the layer is wide.
        largest_leak: A layer with a larger leak, on inputs that A was not computed from, is left out.
        empty_share: Share of the empty prompt in the moments of token states; the empty prompt guides every image.
        steps: Denoising steps of the trajectories from which A is computed and leaks are measured.
        trajectories: Number of those of preserved prompts.
        concept_trajectories: Least number of those of the concepts; at least four per concept.
        samples: Inputs that a layer keeps of each evaluated sample. Memory on the CPU is in proportion to it.
        generic: General prompts, which are always preserved, and from which `anchor="auto"` chooses.
        anchor_candidates: How many of them, nearest by text, are compared by the denoiser's predictions.
    """

    words: int = 500
    neighbours: int = 64
    pairs: int = 1500
    near: float = 0.75
    contexts: int = 32
    loss_prompts: int = 256
    text_strength: float = 3e-4
    state_strength: float = 1e-2
    largest_leak: float = 0.15
    empty_share: float = 0.1
    steps: int = 6
    trajectories: int = 96
    concept_trajectories: int = 32
    samples: int = 4
    generic: tuple[str, ...] = GENERIC
    anchor_candidates: int = 8
