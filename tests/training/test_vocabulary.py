"""The text encoder's vocabulary: its words, synonyms, neighbours."""

from __future__ import annotations

import pytest
from emoji_sd import OBJECTS, STYLES, load
from tiny import tiny_tokenizer

from diffusers_esd import Limits
from diffusers_esd.families import family_for
from diffusers_esd.streams import stream
from diffusers_esd.training.vocabulary import SINGLE, contexts, nearness, preserved, words

NEAR = Limits().near


def test_words_are_whole_and_real() -> None:
    known = words(tiny_tokenizer())
    assert {"cat", "rocket", "mono", "animal"} <= set(known)
    assert all(len(word) >= 3 and word.isalpha() for word in known)
    assert "ca" not in known


@pytest.mark.parametrize(("concept", "gone"), [("a cat", "cat"), ("art in mono style", "mono")])
def test_the_vocabulary_leaves_the_concept_out_and_its_neighbours_in(concept: str, gone: str) -> None:
    prompts = preserved(family_for(load()), [concept], seed=0, limits=Limits()).prompts
    said = {word for prompt in prompts for word in prompt.split()}
    assert gone not in said
    assert prompts[0] == ""
    neighbours = {"dog", "rabbit", "crown", "animal", "noto", "art"}
    assert neighbours <= said
    assert {template.format("dog") for template in SINGLE} <= set(prompts)
    assert len(set(prompts)) == len(prompts)
    assert prompts == preserved(family_for(load()), [concept], seed=0, limits=Limits()).prompts
    fewer = preserved(family_for(load()), [concept], seed=0, limits=Limits(words=10, pairs=20)).prompts
    assert len(fewer) <= 1 + 3 * 10 + 20


def test_nearness_is_one_for_the_same_word_and_tells_a_style_in_a_phrase() -> None:
    family = family_for(load())
    known = [*OBJECTS, *STYLES, "animal"]
    prompts = [f"a {word}" for word in known]
    near = dict(zip(known, nearness(family, prompts, ["a cat"]).tolist(), strict=True))
    assert near["cat"] == pytest.approx(1, abs=1e-3)
    assert max(value for word, value in near.items() if word != "cat") < NEAR
    near = dict(
        zip(known, nearness(family, [f"a {word}" for word in known], ["art in mono style"]).tolist(), strict=True)
    )
    assert near["mono"] >= NEAR


def test_a_concept_is_looked_at_in_company() -> None:
    found = contexts("a cat", ["noto", "mono"], 3, stream(0, "contexts"))
    assert len(found) == 3
    assert set(found) <= {"a cat in noto style", "a cat in mono style"}
    assert contexts("a cat", [], 3, stream(0, "contexts")) == ("a cat",)
