"""The text encoder's vocabulary: what is preserved if the user does not give a list.

The tokenizer knows the words that its text encoder was trained on. Words of the concept are left out, and so are words
that the text encoder puts as near to the concept as a synonym: to preserve those would preserve the concept.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor
from torch.nn import functional

from ..families import Family
from ..limits import Limits
from ..streams import permutation, stream
from .encoding import Encoded

SINGLE = ("{}", "a {}", "art in {} style")
PAIR = "a {} in {} style"

# How tokenizers mark whole words: T5 and byte-level tokenizers mark the beginning, CLIP the end.
_BEGINNINGS, _ENDING = ("▁", "Ġ"), "</w>"
_TEMPLATE_WORDS = frozenset(re.findall(r"\w+", " ".join((*SINGLE, PAIR))))


@dataclass(frozen=True)
class Preserved:
    """Prompts whose predictions must not change.

    Attributes:
        prompts: The prompts, in random order.
        synonyms: Words of the vocabulary that were left out because they are too near to the concept.
    """

    prompts: tuple[str, ...] = ()
    synonyms: tuple[str, ...] = ()


def words(tokenizer: object) -> list[str]:
    """Whole words of a tokenizer with three or more letters, sorted; none if the tokenizer does not mark words."""
    tokens = tokenizer.get_vocab()  # type: ignore[attr-defined]
    whole = [t.removesuffix(_ENDING).lstrip("▁Ġ") for t in tokens if t.endswith(_ENDING) or t.startswith(_BEGINNINGS)]
    return sorted({word for word in whole if len(word) >= 3 and word.isalpha() and word.isascii() and word.islower()})


def contexts(concept: str, vocabulary: Sequence[str], n: int, generator: torch.Generator) -> tuple[str, ...]:
    """The concept with n random words, such as `"a cat in watercolor style"`; alone if there are no words."""
    if not vocabulary:
        return (concept,)
    chosen = torch.randint(len(vocabulary), (n,), generator=generator, device="cpu").tolist()
    return tuple(f"{concept} in {vocabulary[i]} style" for i in chosen)


def preserved(family: Family, concepts: Sequence[str], *, seed: int, limits: Limits) -> Preserved:
    """Prompts of the vocabulary that an erasure of the concepts must preserve.

    Args:
        family: The family; its tokenizer and text encoder are used.
        concepts: The concepts.
        seed: Seed of the choice of words, if there are more than `limits.words`, and of the pairs.
        limits: How many words and pairs.

    Returns:
        The empty prompt, each word in every template of `SINGLE`, and pairs of words in `PAIR`.

    Raises:
        ValueError: If the tokenizer does not mark words, or all words are words of the concepts.
    """
    everything = words(family.tokenizer)
    if not everything:
        raise ValueError(
            "`preserve`='vocabulary' needs a tokenizer that marks whole words, and a "
            f"{type(family.tokenizer).__name__} does not: give a list of prompts, preserve=[...], or preserve=() to "
            "preserve nothing."
        )
    own = set(re.findall(r"\w+", " ".join(concepts).lower())) - _TEMPLATE_WORDS
    generator = stream(seed, "vocabulary")
    known = [word for word in everything if word not in own | _TEMPLATE_WORDS]
    known = [known[i] for i in permutation(len(known), generator)[: limits.words]]
    similarity = nearness(family, [f"a {word}" for word in known], concepts).tolist() if known else []
    kept = [word for word, value in zip(known, similarity, strict=True) if value < limits.near]
    if not kept:
        raise ValueError(
            f"The text encoder's vocabulary has no words to preserve besides {', '.join(concepts)!r}: give a list of "
            "prompts, preserve=[...], or preserve=() to preserve nothing."
        )
    chosen = torch.randint(len(kept), (limits.pairs, 2), generator=generator, device="cpu").tolist()
    prompts = [template.format(word) for word in kept for template in SINGLE]
    prompts = list(dict.fromkeys([*prompts, *(PAIR.format(kept[i], kept[j]) for i, j in chosen)]))
    order = permutation(len(prompts), generator)
    return Preserved(("", *[prompts[i] for i in order]), tuple(sorted(set(known) - set(kept))))


def neighbours(family: Family, concepts: Sequence[str], n: int, *, seed: int, limits: Limits) -> list[str]:
    """Prompts of the n words of the vocabulary that are nearest to the concepts, synonyms left out.

    They are what an erasure changes first. Tokenizers list fragments beside words, so what is the end of another word
    is left out. If the tokenizer does not mark words, there are none.
    """
    own = set(re.findall(r"\w+", " ".join(concepts).lower())) | _TEMPLATE_WORDS
    everything = words(family.tokenizer)
    known = [word for word in everything if word not in own]
    known = [known[i] for i in permutation(len(known), stream(seed, "vocabulary"))[: limits.words]]
    similarity = nearness(family, [f"a {word}" for word in known], concepts).tolist() if known else []
    nearest = sorted((-value, word) for value, word in zip(similarity, known, strict=True) if value < limits.near)
    whole = (w for _, w in nearest if not any(other != w and other.endswith(w) for other in everything))
    return [f"a {word}" for word in islice(whole, n)]


@torch.no_grad()
def nearness(family: Family, prompts: Sequence[str], concepts: Sequence[str]) -> Tensor:
    """Cosine of each prompt to the nearest concept, (prompts,): 1 is the same, 0 unrelated.

    It is the cosine of token states that are averaged over the tokens, minus the mean of all prompts.
    """
    encoded = Encoded(family)

    def pooled(texts: Sequence[str]) -> Tensor:
        return torch.cat([states.mean(1) for _, states in encoded.states(texts)])

    vectors = pooled(prompts)
    mean = vectors.mean(0)
    targets = functional.normalize(pooled(concepts) - mean)
    return (functional.normalize(vectors - mean) @ targets.T).amax(1).cpu()
