"""The suite `quick` on a real small model: what it asks, and that its judge knows all of it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from controls import must_fail
from emoji_sd import load
from emoji_sd.recogniser import EmojiJudge
from made import made

from diffusers_esd.evaluation.quick import AGAINST, GROUPS, quick
from diffusers_esd.evaluation.suite import Suite

SIZE = 32  # of the images that score the neighbours: half the model's, in half the time


@pytest.fixture(scope="module")
def pipe() -> Any:
    return load()


@pytest.fixture(scope="module")
def judge() -> EmojiJudge:
    return EmojiJudge()


@pytest.fixture(scope="module")
def suite(pipe: Any, judge: EmojiJudge) -> Suite:
    return quick(pipe, [made(pipe, "a cat", rank=1, size=SIZE)], [judge], words={"a cat": ["a kitten"]})


def texts(suite: Suite, group: str) -> Counter[str]:
    return Counter(prompt.text for prompt in suite.prompts if prompt.group == group)


def test_the_groups_and_their_images(suite: Suite) -> None:
    assert suite.groups == GROUPS
    assert texts(suite, "named") == {"a cat": 16}
    assert texts(suite, "negative prompt") == {"a cat": 8}
    assert {p.negative_prompt for p in suite.prompts if p.group == "negative prompt"} == {AGAINST}
    others = texts(suite, "other words")
    assert others["a kitten"] == 2
    assert others["un gato"] == 2
    assert set(others.values()) == {2}
    assert "a cat" not in others
    assert sum(texts(suite, "unnamed").values()) == 16
    assert texts(suite, "unnamed")[""] == 8
    for group in ("neighbours by text", "neighbours by score"):
        assert list(texts(suite, group).values()) == [2] * 4, group
    general = texts(suite, "general")
    assert "a cat" not in general
    assert general["a dog"] == 2


def test_what_is_about_the_concept_and_what_must_stay(suite: Suite, judge: EmojiJudge) -> None:
    about = {(prompt.group, prompt.concept) for prompt in suite.prompts}
    assert about == {
        *((group, "a cat") for group in ("named", "other words", "unnamed", "negative prompt")),
        *((group, "") for group in ("neighbours by text", "neighbours by score", "general")),
    }
    for prompt in suite.prompts:
        expected = "a cat" if prompt.concept else prompt.text
        assert prompt.labels == {"subject": expected}
        assert judge.knows(expected), "neighbours are such as the judge knows"
    near = texts(suite, "neighbours by text").keys()
    assert near & texts(suite, "neighbours by score").keys() == set()
    seeds = [prompt.seed for prompt in suite.prompts]
    assert seeds == [*range(100_000, 100_000 + len(seeds))], "every image has a seed of its own"


def test_several_concepts_share_what_must_stay(pipe: Any, judge: EmojiJudge, suite: Suite) -> None:
    erasures = [made(pipe, concept, rank=1, seed=i, size=SIZE) for i, concept in enumerate(["a cat", "a dog"])]
    many = [f"x{i}" for i in range(20)]
    asked = quick(pipe, erasures, [judge], unnamed={"a cat": many})
    assert texts(asked, "named") == {"a cat": 16, "a dog": 16}
    for group in ("neighbours by text", "neighbours by score", "general"):
        assert not {"a cat", "a dog"} & texts(asked, group).keys(), "what is erased need not stay"
        assert set(texts(asked, group).values()) == {2}, "each is asked once"
    of_cat = [prompt.text for prompt in asked.prompts if (prompt.group, prompt.concept) == ("unnamed", "a cat")]
    assert of_cat == many, "those that were given"
    with must_fail("other words are other prompts"):
        assert asked.prompts.digest() == suite.prompts.digest()


def test_a_concept_that_no_judge_knows_is_a_note(pipe: Any, judge: EmojiJudge) -> None:
    asked = quick(pipe, [made(pipe, "a theorem", rank=1)], [judge])
    assert asked.notes == ("No judge knows 'a theorem', so nothing is said about whether it is gone.",)
    assert {prompt.group for prompt in asked.prompts} == {"general"}


def test_mistakes_are_named(pipe: Any, judge: EmojiJudge) -> None:
    with pytest.raises(ValueError, match=r"^This suite asks about erasures; give at least one\.$"):
        quick(pipe, [], [judge])
    erasure = made(pipe, "a cat", rank=1)
    with pytest.raises(FileNotFoundError, match="clip"):
        quick(pipe, [erasure])
    with pytest.raises(ValueError, match=r"^`words` has 'a dog'; the erasures have 'a cat'\.$"):
        quick(pipe, [erasure], [judge], words={"a dog": ["a hound"]})
    with pytest.raises(ValueError, match=r"^`unnamed` has 'cat'; the erasures have 'a cat'\.$"):
        quick(pipe, [erasure], [judge], unnamed={"cat": ["an animal"]})
