"""Words of tokenizers: whole, frequent first, without endings; and words that mean a concept."""

from __future__ import annotations

import gzip
import importlib.metadata
import re
from pathlib import Path
from typing import Any

import pytest
from controls import must_fail
from emoji_sd import OBJECTS, STYLES, load
from tiny import unmarked_tokenizer

from diffusers_esd.training.words import same_meaning, whole_tokens, words


class ListedTokens:
    """A list of tokens, numbered in its order; all that the functions read of a tokenizer."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens

    def get_vocab(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self._tokens)}


@pytest.fixture(scope="module")
def clip() -> ListedTokens:
    """CLIP's 49,408 tokens, from the merges that open_clip_torch ships."""
    file = "open_clip/bpe_simple_vocab_16e6.txt.gz"
    path = importlib.metadata.distribution("open_clip_torch").locate_file(file)
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")  # type: ignore[attr-defined]
    merges = ["".join(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    return ListedTokens([*(f"byte {i}" for i in range(512)), *merges])


def test_the_small_models_words_are_whole_and_real() -> None:
    known = words(load().tokenizer)
    assert {*OBJECTS, *STYLES, "animal", "art"} <= set(known)
    assert not {"urch", "yle", "hroom", "lboat"} & set(known)
    assert {"urch", "yle", "hroom", "lboat"} <= whole_tokens(load().tokenizer).keys()


def test_an_ending_begins_less_than_half_as_many_tokens_as_it_ends() -> None:
    twice = ["church</w>", "lurch</w>", "urch</w>"]
    assert words(ListedTokens(twice)) == ["church", "lurch"]
    assert words(ListedTokens([*twice, "urchin"])) == ["church", "lurch", "urch"]
    assert words(ListedTokens(["the</w>", "of</w>", "Cat</w>", "cat</w>", "123</w>", "ca"])) == ["the", "cat"]


@pytest.mark.parametrize("mark", ["▁", "Ġ"])
def test_marked_beginnings_are_words_in_their_order(mark: str) -> None:
    assert words(ListedTokens([f"{mark}tree", "rocket", f"{mark}cat", f"{mark}of"])) == ["tree", "cat"]


def test_without_marks_there_are_no_words() -> None:
    assert words(unmarked_tokenizer()) == []


def test_the_frequent_words_of_clip_are_words(clip: Any) -> None:
    """Zipf frequency 3 is once in a million words."""
    from wordfreq import zipf_frequency

    known = words(clip)
    share = sum(zipf_frequency(word, "en") >= 3 for word in known[:500]) / 500
    assert sum(zipf_frequency(word, "en") >= 3 for word in known[:100]) >= 95
    assert share >= 0.95
    assert 27_000 < len(known) < 27_500
    with must_fail("whole tokens are not all words"):
        assert sum(zipf_frequency(word, "en") >= 3 for word in list(whole_tokens(clip))[:100]) >= 95
    with must_fail("rare tokens are not all words"):
        assert sum(zipf_frequency(word, "en") >= 3 for word in known[::271][:100]) >= 95


@pytest.mark.parametrize(
    ("concept", "gone"),
    [
        ("nudity", {"nude", "naked", "topless", "nsfw"}),
        ("a naked person", {"nudity", "topless", "person", "persons"}),
        ("Van Gogh", {"van", "gogh", "vangogh", "vincent"}),
        ("a cat", {"cat", "cats"}),
        ("cats", {"cat", "cats"}),
        ("corpses", {"corpse", "gore", "blood"}),
    ],
)
def test_words_of_the_same_meaning(concept: str, gone: set[str], clip: Any) -> None:
    own = same_meaning([concept])
    assert gone <= own
    assert not {"dog", "art", "woman", "picasso"} & own
    assert len(own & set(words(clip))) >= 2, "the tokenizer knows several of them"


def test_the_numbers_in_the_documentation_are_those_of_clips_list(clip: Any) -> None:
    text = (Path(__file__).parents[2] / "docs" / "results.md").read_text(encoding="utf-8")
    table = text[text.index("| concept | never preserved |") : text.index("None of them is among the 500")]
    known = words(clip)
    found = re.findall(r"(\w+) \(([\d,]+)\)", table)
    assert len(found) == 24
    assert {word: known.index(word) for word, _ in found} == {word: int(n.replace(",", "")) for word, n in found}
    assert f"{len(known):,} words" in text
