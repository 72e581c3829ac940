"""The text encoder's vocabulary: which words are preserved, synonyms, neighbours."""

from __future__ import annotations

import pytest
import torch
from controls import must_fail
from emoji_sd import OBJECTS, STYLES, load
from tiny import tiny_pipeline

from diffusers_esd import Limits
from diffusers_esd.families import family_for
from diffusers_esd.streams import stream
from diffusers_esd.training.encoding import Encoded
from diffusers_esd.training.vocabulary import SINGLE, contexts, nearness, neighbours, preserved
from diffusers_esd.training.words import words

NEAR = Limits().near


@pytest.mark.parametrize(("concept", "gone"), [("a cat", "cat"), ("art in mono style", "mono")])
def test_the_vocabulary_leaves_the_concept_out_and_its_neighbours_in(concept: str, gone: str) -> None:
    family = family_for(load())
    found = preserved(Encoded(family), [concept], seed=0, limits=Limits())
    prompts = found.prompts
    said = {word for prompt in prompts for word in prompt.split()}
    assert gone not in said
    assert prompts[0] == ""
    assert {"dog", "rabbit", "crown", "animal", "noto", "art"} <= said
    assert {template.format("dog") for template in SINGLE} <= set(prompts)
    assert "an animal" in prompts, "generic prompts"
    assert len(set(prompts)) == len(prompts)
    assert prompts == preserved(Encoded(family), [concept], seed=0, limits=Limits()).prompts
    assert (found.words, found.vocabulary) == (len(said & set(words(family.tokenizer)) - {"art", "style"}), 53)


def test_the_frequent_and_the_near_are_preserved_if_not_all_can_be() -> None:
    family = family_for(load())
    limits = Limits(words=10, neighbours=5, pairs=20)
    found = preserved(Encoded(family), ["a cat"], seed=0, limits=limits)
    known = [word for word in words(family.tokenizer) if word not in ("cat", "art", "style")]
    near = [prompt.removeprefix("a ") for prompt in neighbours(Encoded(family), ["a cat"], 5, limits=limits)]
    others = neighbours(Encoded(family), ["a cat"], 5, synonyms=near[:1], limits=limits)
    assert f"a {near[0]}" not in others, "a synonym that the user names"
    assert {f"a {word}" for word in [*known[:10], *near]} <= set(found.prompts)
    assert found.words == len({*known[:10], *near}) <= 15
    everything = dict(zip(known, nearness(Encoded(family), [f"a {w}" for w in known], ["a cat"]).tolist(), strict=True))
    least = sorted(everything.values())[-15]
    assert all(everything[word] >= least for word in near), "among the fifteen nearest of fifty"
    with must_fail("the frequent words are not the near ones"):
        assert all(everything[word] >= least for word in known[:5])


@pytest.mark.parametrize("named", ["dog", "a dog", "Dogs"])
def test_words_that_the_user_calls_synonyms_are_not_preserved(named: str) -> None:
    family = family_for(load())
    found = preserved(Encoded(family), ["a cat"], synonyms=[named], seed=0, limits=Limits())
    assert not any("dog" in prompt.split() for prompt in found.prompts)
    assert any("rabbit" in prompt.split() for prompt in found.prompts)
    with must_fail("without it the dog is preserved"):
        plain = preserved(Encoded(family), ["a cat"], seed=0, limits=Limits())
        assert not any("dog" in prompt.split() for prompt in plain.prompts)


@torch.no_grad()
def test_a_word_as_near_as_a_synonym_is_not_preserved_and_is_named() -> None:
    pipe = tiny_pipeline()
    embeddings = pipe.text_encoder.get_input_embeddings().weight
    cat, dog = (pipe.tokenizer(word, add_special_tokens=False).input_ids[0] for word in ("cat", "dog"))
    embeddings[dog] = embeddings[cat]
    found = preserved(Encoded(family_for(pipe)), ["a cat"], seed=0, limits=Limits())
    assert "dog" in found.synonyms
    assert not any("dog" in prompt.split() for prompt in found.prompts)
    few = preserved(Encoded(family_for(pipe)), ["a cat"], seed=0, limits=Limits(words=5, neighbours=2))
    assert "dog" in few.synonyms, "the token embeddings find it among rare words"


def test_nearness_is_one_for_the_same_word_and_tells_a_style_in_a_phrase() -> None:
    family = family_for(load())
    known = [*OBJECTS, *STYLES, "animal"]
    prompts = [f"a {word}" for word in known]
    near = dict(zip(known, nearness(Encoded(family), prompts, ["a cat"]).tolist(), strict=True))
    assert near["cat"] == pytest.approx(1, abs=1e-3)
    assert max(value for word, value in near.items() if word != "cat") < NEAR
    near = dict(
        zip(
            known,
            nearness(Encoded(family), [f"a {word}" for word in known], ["art in mono style"]).tolist(),
            strict=True,
        )
    )
    assert near["mono"] >= NEAR


def test_a_concept_is_looked_at_in_company() -> None:
    found = contexts("a cat", ["noto", "mono"], 3, stream(0, "contexts"))
    assert len(found) == 3
    assert set(found) == {"a cat in noto style", "a cat in mono style"}
    assert contexts("a cat", [], 3, stream(0, "contexts")) == ("a cat",)
