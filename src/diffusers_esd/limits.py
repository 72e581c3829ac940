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
        text_strength: Ridge of the moments of token states, relative to their mean diagonal; a smaller ridge removes
            more of what is preserved.
        state_strength: The same for all other layers; it grows where inputs are fewer than the layer is wide.
        largest_leak: A layer with a larger leak on held-out inputs gets no adapter.
        empty_share: Share of the empty prompt in the moments of token states: it guides every picture.
        steps: Denoising steps of the trajectories that moments are taken along.
        trajectories: Trajectories of preserved prompts that A is computed from.
        held_out: Further trajectories of preserved prompts, on which leaks are measured.
        concept_trajectories: Least number of trajectories of the concepts for computing A, and as many for measuring
            leaks; two per concept if that is more.
        widest: A layer with wider inputs gets no adapter, because a moment is a width x width matrix.
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
