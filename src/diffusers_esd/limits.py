"""`Limits`: the fixed numbers of vocabulary and null space. Few users change them; tests and benchmarks do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much is looked at, and where lines are drawn.

    Attributes:
        words: Words of the vocabulary at most.
        pairs: Prompts of two words each.
        near: Cosine to the concept from which a word counts as its synonym, and is not preserved.
        contexts: Words in whose company the concept is looked at.
        loss_prompts: Prompts that the preserve loss takes at most.
        text_strength: Ridge of the moments of token states; smaller shrinks more.
        state_strength: The same of the moments of all other inputs, where samples are many beside their width.
        largest_leak: A layer with more, on inputs that it was not fitted to, gets no adapter.
        empty_share: Of the token states' moments: the empty prompt guides every picture.
        steps: Denoising steps of the trajectories that moments are taken along.
        trajectories: How many of preserved prompts the moments are fitted to.
        held_out: How many more the leaks are measured on.
        concept_trajectories: Of the concepts, for each of both, at least; two of each concept where these are many.
        widest: Wider layers get no adapter: a moment is width x width.
        memory: Bytes of moments at a time; the trajectories are run again for the layers beyond it.
    """

    words: int = 500
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
    memory: int = 4 * 2**30
