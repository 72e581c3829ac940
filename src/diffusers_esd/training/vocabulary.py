"""The text encoder's vocabulary: what is preserved if the user does not give a list.

The tokenizer knows the words that its text encoder was trained on, too many to preserve all. Preserved are the most
frequent ones, the concept's neighbourhood, which an erasure changes first, and generic prompts such as "a person".
Words that mean the concept are left out, and so are words that the text encoder puts as near to it as a synonym: to
preserve those would preserve the concept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..families import Family
from ..limits import Limits
from ..streams import permutation, stream
from .encoding import Encoded
from .words import same_meaning, whole_tokens, words, words_of

SINGLE = ("{}", "a {}", "art in {} style")
PAIR = "a {} in {} style"

_TEMPLATE_WORDS = words_of([*SINGLE, PAIR])
_CONSIDERED = 4  # times as many words are compared by their states as are taken into the neighbourhood


@dataclass(frozen=True)
class Preserved:
    """Prompts whose predictions must not change.

    Attributes:
        prompts: The prompts, in random order.
        synonyms: Words of the vocabulary that were left out because they are too near to the concept.
        words: Number of words in the prompts; 0 for a list of the user's.
        vocabulary: Number of words that the tokenizer knows; 0 for a list of the user's.
    """

    prompts: tuple[str, ...] = ()
    synonyms: tuple[str, ...] = ()
    words: int = 0
    vocabulary: int = 0


@dataclass(frozen=True)
class _Chosen:
    """What to preserve, and what is left out.

    Attributes:
        frequent: The most frequent words, most frequent first.
        near: The concept's neighbourhood, nearest first; some of these words are frequent too.
        general: Generic prompts.
        synonyms: Words that are too near to the concept.
    """

    frequent: tuple[str, ...]
    near: tuple[str, ...]
    general: tuple[str, ...]
    synonyms: tuple[str, ...]


def contexts(concept: str, vocabulary: Sequence[str], n: int, generator: torch.Generator) -> tuple[str, ...]:
    """The concept with n random words, such as `"a cat in watercolor style"`; alone if there are no words."""
    if not vocabulary:
        return (concept,)
    order = permutation(len(vocabulary), generator)
    return tuple(f"{concept} in {vocabulary[order[i % len(order)]]} style" for i in range(n))


def preserved(
    encoded: Encoded, concepts: Sequence[str], *, synonyms: Sequence[str] = (), seed: int, limits: Limits
) -> Preserved:
    """Prompts of the vocabulary that an erasure of the concepts must preserve.

    Args:
        encoded: Encodes the prompts, and keeps those that are compared.
        concepts: The concepts.
        synonyms: Further words that mean the concepts.
        seed: Seed of the pairs and of the order.
        limits: How many words and pairs.

    Returns:
        The empty prompt, each word in every template of `SINGLE`, pairs of words in `PAIR`, and generic prompts.

    Raises:
        ValueError: If the tokenizer does not mark words, or all words are words of the concepts.
    """
    family = encoded.family
    known = words(family.tokenizer)
    if not known:
        raise ValueError(
            "`preserve`='vocabulary' needs a tokenizer that marks whole words, and a "
            f"{type(family.tokenizer).__name__} does not: give a list of prompts, preserve=[...], or preserve=() to "
            "preserve nothing."
        )
    chosen = _choose(encoded, concepts, synonyms, limits)
    kept = list(dict.fromkeys([*chosen.frequent, *chosen.near]))
    if not kept:
        raise ValueError(
            f"The text encoder's vocabulary has no words to preserve besides {', '.join(concepts)!r}: give a list of "
            "prompts, preserve=[...], or preserve=() to preserve nothing."
        )
    generator = stream(seed, "vocabulary")
    pairs = torch.randint(len(kept), (limits.pairs, 2), generator=generator, device="cpu").tolist()
    prompts = [template.format(word) for word in kept for template in SINGLE]
    prompts += [PAIR.format(kept[i], kept[j]) for i, j in pairs]
    prompts = list(dict.fromkeys([*prompts, *chosen.general]))
    order = permutation(len(prompts), generator)
    return Preserved(("", *[prompts[i] for i in order]), tuple(sorted(chosen.synonyms)), len(kept), len(known))


def generic(encoded: Encoded, concepts: Sequence[str], synonyms: Sequence[str], limits: Limits) -> list[str]:
    """The generic prompts that do not mean the concepts, nearest to them first.

    Left out are prompts with a word of the concepts or of the synonyms, prompts that the text encoder puts as near to
    the concepts as a synonym, and prompts with a word that the tokenizer does not know.
    """
    family = encoded.family
    allowed = _generic(family, [*concepts, *synonyms], limits)
    # The mean of all is that of frequent words as well: of a few prompts alone it would say nothing.
    compared = list(dict.fromkeys([*allowed, *(f"a {word}" for word in words(family.tokenizer)[: limits.neighbours])]))
    if len(compared) < 2:
        return allowed
    near = dict(zip(compared, nearness(encoded, compared, concepts).tolist(), strict=True))
    return [prompt for prompt in sorted(allowed, key=lambda prompt: -near[prompt]) if near[prompt] < limits.near]


def neighbours(
    encoded: Encoded, concepts: Sequence[str], n: int, *, synonyms: Sequence[str] = (), limits: Limits
) -> list[str]:
    """Prompts of the n words of the vocabulary that are nearest to the concepts, synonyms left out.

    They are what an erasure changes first. If the tokenizer does not mark words, there are none.
    """
    return [f"a {word}" for word in _choose(encoded, concepts, synonyms, limits).near[:n]]


def _choose(encoded: Encoded, concepts: Sequence[str], synonyms: Sequence[str], limits: Limits) -> _Chosen:
    """The most frequent words, the concepts' neighbourhood, and the generic prompts."""
    family, named = encoded.family, [*concepts, *synonyms]
    own = same_meaning(named) | _TEMPLATE_WORDS
    known = [word for word in words(family.tokenizer) if word not in own]
    frequent, others = known[: limits.words], known[limits.words :]
    compared = [*frequent, *_considered(family, named, others, _CONSIDERED * limits.neighbours)]
    if not compared:
        return _Chosen((), (), (), ())
    general = _generic(family, named, limits)
    prompts = list(dict.fromkeys([*(f"a {word}" for word in compared), *general]))
    near = dict(zip(prompts, nearness(encoded, prompts, named).tolist(), strict=True))
    kept = {word for word in compared if near[f"a {word}"] < limits.near}
    return _Chosen(
        frequent=tuple(word for word in frequent if word in kept),
        near=tuple(sorted(kept, key=lambda word: (-near[f"a {word}"], word))[: limits.neighbours]),
        general=tuple(prompt for prompt in general if near[prompt] < limits.near),
        synonyms=tuple(word for word in compared if word not in kept),
    )


def _generic(family: Family, named: Sequence[str], limits: Limits) -> list[str]:
    """The generic prompts whose words the tokenizer knows, without those that have a word of what is named."""
    own, known = same_meaning(named), whole_tokens(family.tokenizer)
    allowed = [prompt for prompt in limits.generic if not own & words_of([prompt])]
    return [prompt for prompt in allowed if not known or words_of([prompt]) <= known.keys()]


@torch.no_grad()
def _considered(family: Family, concepts: Sequence[str], others: Sequence[str], n: int) -> list[str]:
    """The n words whose token embeddings are nearest to those of the concepts: a first choice, without the encoder."""
    if len(others) <= n:
        return list(others)
    tokens = family.tokenizer(list(concepts), add_special_tokens=False).input_ids
    embeddings = family.pipe.text_encoder.get_input_embeddings().weight.float()
    numbers, centre = whole_tokens(family.tokenizer), embeddings.mean(0)
    targets = functional.normalize(embeddings[sorted({number for row in tokens for number in row})] - centre)
    rows = functional.normalize(embeddings[[numbers[word] for word in others]] - centre)
    nearest = (rows @ targets.T).amax(1).topk(n).indices.tolist()
    return [others[i] for i in nearest]


@torch.no_grad()
def nearness(encoded: Encoded, prompts: Sequence[str], concepts: Sequence[str]) -> Tensor:
    """Cosine of each prompt to the nearest concept, (prompts,): 1 is the same, 0 unrelated.

    It is the cosine of token states that are averaged over the tokens, minus the mean of all prompts. All are kept in
    `encoded`.
    """

    def pooled(texts: Sequence[str]) -> Tensor:
        encoded.add(texts)
        return torch.cat([states.mean(1) for _, states in encoded.states(texts)])

    vectors = pooled(prompts)
    mean = vectors.mean(0)
    targets = functional.normalize(pooled(concepts) - mean)
    return (functional.normalize(vectors - mean) @ targets.T).amax(1).cpu()
