"""Spellings of a concept, and names of files."""

from __future__ import annotations

import pytest

from diffusers_esd.evaluation.spelling import key, slug


@pytest.mark.parametrize("label", ["a golf ball", "Golf Ball", "golf_ball", "the golf  ball"])
def test_spellings_of_one_concept_are_equal(label: str) -> None:
    assert key(label) == "golf ball"


def test_another_concept_has_another_key() -> None:
    assert key("a golf ball") != key("a ball")
    assert key("a") == "a", "an article alone is a word"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("All together", "all-together"), ("../no cat", "no-cat"), ("É", "unnamed"), ("a.b_c", "a.b_c")],
)
def test_a_name_of_a_file(name: str, expected: str) -> None:
    assert slug(name) == expected
