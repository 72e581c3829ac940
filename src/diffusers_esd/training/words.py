"""The words of a tokenizer, the frequent ones first, and which of them mean a concept.

A tokenizer lists tokens, not words. CLIP's marks the end of a word, so the ends of longer words are listed beside
words: "urch" beside "church". A whole token is taken for a word if at least half as many tokens begin with it as end
with it: many tokens begin with "art", such as "artist", and hardly any with "urch". The tokens' numbers are their order
of frequency: byte-pair encoding merges frequent pairs first, and SentencePiece sorts its list.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

_WORD = re.compile(r"[a-z]{3,}")
# How tokenizers mark whole words: T5 and byte-level tokenizers mark the beginning, CLIP the end.
_BEGINNINGS, _ENDING = ("▁", "Ġ"), "</w>"

_GROUPS = """
nudity nude nudes nudist naked nakedness topless unclothed undressed nsfw explicit erotic erotica sexual sexy porn lewd
violence violent brutal brutality gore gory blood bloody bleeding murder kill killing killed wound wounded corpse
gogh vangogh vincent
"""
SYNONYMS: tuple[frozenset[str], ...] = tuple(frozenset(line.split()) for line in _GROUPS.split("\n") if line)
"""Words that mean the same concept: none of a group is preserved if a concept names one of it."""


def whole_tokens(tokenizer: object) -> dict[str, int]:
    """Numbers of the whole tokens of three or more letters, by their text; none if the tokenizer does not mark them."""
    tokens = tokenizer.get_vocab()  # type: ignore[attr-defined]
    found: dict[str, int] = {}
    for token, number in sorted(tokens.items(), key=lambda item: item[1]):
        if token.endswith(_ENDING) or token.startswith(_BEGINNINGS):
            text = token.removesuffix(_ENDING).lstrip("▁Ġ")
            if _WORD.fullmatch(text):
                found.setdefault(text, number)
    return found


def words(tokenizer: object) -> list[str]:
    """The words of a tokenizer, the frequent ones first; none if the tokenizer does not mark whole words."""
    whole = whole_tokens(tokenizer)
    tokens = tokenizer.get_vocab()  # type: ignore[attr-defined]
    if not any(token.endswith(_ENDING) for token in tokens):
        return list(whole)
    begins = Counter(part for token in {t.removesuffix(_ENDING) for t in tokens} for part in _proper(token, ends=False))
    ends = Counter(part for token in whole for part in _proper(token, ends=True))
    return [word for word in whole if 2 * begins[word] >= ends[word]]


def words_of(prompts: Iterable[str]) -> set[str]:
    """Words of three or more letters in prompts, without upper case."""
    return set(re.findall(r"\w{3,}", " ".join(prompts).lower()))


def same_meaning(prompts: Iterable[str]) -> set[str]:
    """Words that mean what prompts name: their own, singular and plural, and the groups of `SYNONYMS` they are in."""
    own = words_of(prompts)
    own |= {word.removesuffix(ending) for word in own for ending in ("s", "es") if word.endswith(ending)}
    for group in SYNONYMS:
        if own & group:
            own |= group
    return own | {word + ending for word in own for ending in ("s", "es")}


def _proper(text: str, *, ends: bool) -> list[str]:
    """The beginnings or the ends of a text that are at least three letters long and shorter than the text."""
    return [text[-n:] if ends else text[:n] for n in range(3, len(text))]
