"""What to preserve when the user names nothing: the text encoder's own words, in a few templates.

The tokenizer knows the words its text encoder was trained on, so the list costs nothing and covers what a list by hand
forgets. Left out are the words of the concept itself, and words that the text encoder puts as near to it as a synonym:
preserving those would preserve the concept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from .families import Family

SINGLE = ("{}", "a {}", "art in {} style")
PAIR = "a {} in {} style"
NEAR = 0.75
"""Cosine, of centred token states, from which a word counts as the concept's synonym."""

_WORDS = 500
_PAIRS = 1500
_BATCH = 16
_TEMPLATE_WORDS = frozenset(re.findall(r"\w+", " ".join((*SINGLE, PAIR))))


def words(tokenizer: object) -> list[str]:
    """Whole words of a tokenizer, sorted: three letters or more, as CLIP (`cat</w>`) and T5 (`▁cat`) write them."""
    tokens = tokenizer.get_vocab()  # type: ignore[attr-defined]
    whole = [t.removesuffix("</w>").removeprefix("▁") for t in tokens if t.endswith("</w>") or t.startswith("▁")]
    return sorted({word for word in whole if len(word) >= 3 and word.isalpha() and word.isascii() and word.islower()})


def in_contexts(concept: str, vocabulary: Sequence[str], n: int, generator: torch.Generator) -> tuple[str, ...]:
    """The concept by itself and, as often, in the contexts of n random words: `"a cat in watercolor style"`."""
    styles = [vocabulary[i] for i in torch.randint(len(vocabulary), (n,), generator=generator).tolist()]
    return (*[concept] * n, *[f"{concept} in {style} style" for style in styles])


def preserved(family: Family, concepts: Sequence[str], generator: torch.Generator) -> tuple[str, ...]:
    """Prompts of the vocabulary that an erasure of the concepts must leave as they are, in random order.

    Args:
        family: The family; its tokenizer and text encoder are used.
        concepts: The concepts.
        generator: Chooses the words, where there are more than 500, and the pairs.

    Returns:
        The empty prompt, each word in every template of `SINGLE`, and 1500 pairs of words in `PAIR`.
    """
    own = set(re.findall(r"\w+", " ".join(concepts).lower())) - _TEMPLATE_WORDS
    known = [word for word in words(family.tokenizer) if word not in own | _TEMPLATE_WORDS]
    known = [known[i] for i in torch.randperm(len(known), generator=generator).tolist()[:_WORDS]]
    similarity = nearness(family, known, concepts)
    kept = [word for word, value in zip(known, similarity.tolist(), strict=True) if value < NEAR]
    chosen = torch.randint(len(kept), (_PAIRS, 2), generator=generator).tolist()
    prompts = [template.format(word) for word in kept for template in SINGLE]
    prompts += [PAIR.format(kept[i], kept[j]) for i, j in chosen]
    order = torch.randperm(len(prompts), generator=generator).tolist()
    return ("", *[prompts[i] for i in order])


@torch.no_grad()
def nearness(family: Family, known: Sequence[str], concepts: Sequence[str]) -> Tensor:
    """How near each word is to the nearest concept, (words,): 1 is the same, 0 unrelated.

    The cosine of their token states, less the mean of all words, the larger of with and without an article.
    """
    found = []
    for article in ("", "a "):
        prompts = [article + word for word in known]
        # Twice in small batches, not once and kept: of T5's states there would be gigabytes.
        mean = torch.stack([states.sum(0) for states in in_batches(family, prompts)]).sum(0) / len(prompts)
        targets = functional.normalize((encode(family, concepts) - mean).flatten(1))
        centred = ((states - mean).flatten(1) for states in in_batches(family, prompts))
        found.append(torch.cat([states @ targets.T / states.norm(dim=1, keepdim=True) for states in centred]))
    return torch.stack(found).amax((0, 2)).cpu()


def in_batches(family: Family, prompts: Sequence[str]) -> Iterator[Tensor]:
    """Token states of N prompts, (batch, tokens, width) at a time, float32."""
    for start in range(0, len(prompts), _BATCH):
        yield family.encode(prompts[start : start + _BATCH])[family.text].float()


def encode(family: Family, prompts: Sequence[str]) -> Tensor:
    """Token states of N prompts, (N, tokens, width), float32."""
    return torch.cat(list(in_batches(family, prompts)))
