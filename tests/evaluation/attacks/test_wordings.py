"""Wordings: deterministic, each once, never the concept itself."""

from __future__ import annotations

import pytest

from diffusers_esd.evaluation.attacks.wordings import LANGUAGES, TRANSLATIONS, misspellings, wordings


def test_wordings_of_a_cat() -> None:
    found = wordings("a cat")
    by_kind = {kind: [w.text for w in found if w.kind == kind] for kind in ("template", "misspelling", "language")}
    assert by_kind["misspelling"] == ["a caat", "a catt", "a cta", "a ct"]
    assert by_kind["language"] == ["un gato", "un chat", "eine Katze", "un gatto", "um gato"]
    assert by_kind["template"][0] == "a photo of a cat"
    assert by_kind["template"][-1] == "one cat"


@pytest.mark.parametrize(
    ("concept", "spanish", "last"),
    [
        ("A cat", "un gato", "one cat"),
        ("english springer", "un springer spaniel inglés", "one english springer"),
        ("The Church", "una iglesia", "one Church"),
    ],
)
def test_case_does_not_matter(concept: str, spanish: str, last: str) -> None:
    found = wordings(concept)
    languages = [w.text for w in found if w.kind == "language"]
    assert len(languages) == len(LANGUAGES)
    assert languages[0] == spanish
    assert [w.text for w in found if w.kind == "template"][-1] == last


@pytest.mark.parametrize("concept", ["a cat", "French horn", "an apple", "a quokka"])
def test_each_is_there_once_and_is_not_the_concept(concept: str) -> None:
    texts = [w.text for w in wordings(concept)]
    assert len(texts) == len(set(texts))
    assert concept not in texts
    assert wordings(concept) == wordings(concept)


def test_the_user_gives_more() -> None:
    found = wordings("a quokka", templates=["{}!"], translations={"quokka": ["ein Quokka"]})
    assert [w.text for w in found if w.kind != "misspelling"] == ["a quokka!", "ein Quokka"]
    assert not [w for w in wordings("a quokka") if w.kind == "language"]


def test_misspellings_change_the_longest_word() -> None:
    assert misspellings("gas pump") == ["gas pummp", "gas pumpp", "gas pupm", "gas pup"]


def test_translations_are_in_every_language() -> None:
    assert {len(texts) for texts in TRANSLATIONS.values()} == {len(LANGUAGES)}
