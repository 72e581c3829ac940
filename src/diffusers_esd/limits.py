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
        largest_leak: A layer with a larger leak on held-out inputs is left out.
        empty_share: Share of the empty prompt in the moments of token states; the empty prompt guides every image.
        steps: Denoising steps of the trajectories from which moments are computed.
        trajectories: Trajectories of preserved prompts from which A is computed.
        held_out: Further trajectories of preserved prompts, on which leaks are measured.
        concept_trajectories: Least number of trajectories of the concepts from which A is computed, and as many on
            which leaks are measured; at least two per concept.
        widest: A layer with wider inputs is left out, because its moments are matrices of width x width.
        generic: General prompts, which are always preserved, and from which `anchor="auto"` chooses.
        anchor_candidates: How many of them, nearest by text, are compared by the denoiser's predictions.
        memory: Bytes of moments in memory at a time. If more are needed, the trajectories run again for the rest.
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
    trajectories: int = 128
    held_out: int = 64
    concept_trajectories: int = 16
    widest: int = 6144
    generic: tuple[str, ...] = GENERIC
    anchor_candidates: int = 8
    memory: int = 4 * 2**30
