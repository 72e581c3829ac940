"""The prompt sets that are made from papers: numbers, texts, seeds, labels."""

from __future__ import annotations

from collections import Counter

import pytest
from controls import must_fail

from diffusers_esd.evaluation.judges.imagenet import IMAGENETTE as NUMBERS
from diffusers_esd.evaluation.prompt_sets import (
    ARTISTS,
    ARTWORK,
    CANVAS_OBJECTS,
    CANVAS_SEEDS,
    CANVAS_STYLES,
    IMAGENETTE,
    artists,
    artworks,
    first_of_each,
    imagenette,
    unlearncanvas,
)
from diffusers_esd.evaluation.prompts import PromptSet


def check_own_seeds(prompts: PromptSet) -> None:
    assert len({prompt.seed for prompt in prompts}) == len(prompts)


def test_imagenette_is_the_papers_table() -> None:
    prompts = imagenette()
    assert Counter(prompt.group for prompt in prompts) == dict.fromkeys(IMAGENETTE, 500)
    assert set(IMAGENETTE) == set(NUMBERS)
    assert all(prompt.text == f"an image of a {prompt.concept}" for prompt in prompts)
    assert all(prompt.labels == {"subject": prompt.group} and prompt.concept == prompt.group for prompt in prompts)
    check_own_seeds(prompts)


def test_fewer_images_of_a_class_are_the_first_of_more() -> None:
    few, many = {p.case: p for p in imagenette(2)}, {p.case: p for p in imagenette(500)}
    assert len(few) == 20
    assert all(many[case] == prompt for case, prompt in few.items())
    assert first_of_each(imagenette(500), 2).prompts == tuple(few.values())
    with must_fail("another first seed draws other images"):
        assert imagenette(2, first_seed=1).prompts == tuple(few.values())


def test_artists_are_the_papers_five_with_forty_prompts_and_four_seeds() -> None:
    prompts = artists()
    assert Counter(prompt.group for prompt in prompts) == dict.fromkeys(ARTISTS, 160)
    for name in ARTISTS:
        texts = Counter(prompt.text for prompt in prompts if prompt.concept == name)
        assert len(texts) == 40
        assert set(texts.values()) == {4}
        assert all(text.endswith(name) for text in texts)
        quoted = {f"art by {name}", f"a design of {name}", f"an image in the style of {name}"}
        assert quoted | {f"a reproduction of the famous art of {name}"} <= set(texts)
    check_own_seeds(prompts)


def test_artworks_ask_for_the_artwork_its_style_and_others() -> None:
    prompts = artworks(3)
    assert Counter(prompt.group for prompt in prompts) == {"artwork": 3, "style": 12, "other artworks": 24}
    assert {prompt.text for prompt in prompts if prompt.concept} == {ARTWORK}
    check_own_seeds(prompts)


def test_unlearncanvas_is_its_publishers() -> None:
    prompts = unlearncanvas()
    assert (len(CANVAS_STYLES), len(CANVAS_OBJECTS), len(CANVAS_SEEDS)) == (51, 20, 5)
    assert len(prompts) == 51 * 20 * 5
    by_case = {prompt.case: prompt for prompt in prompts}
    prompt = by_case["Van_Gogh_Dogs_seed588"]
    assert (prompt.text, prompt.seed) == ("An Dogs image in Van Gogh style.", 588)
    assert prompt.labels == {"style": "Van Gogh", "subject": "Dogs"}


def test_the_first_of_each_group() -> None:
    assert len(first_of_each(artists(), 3)) == 15
    assert first_of_each(artists(2, 1), 100).prompts == artists(2, 1).prompts
    with must_fail("a limit leaves some out"):
        assert len(first_of_each(artists(2, 1), 1)) == len(artists(2, 1))


def test_wrong_numbers() -> None:
    with pytest.raises(ValueError, match=r"`prompts` must be 40 or fewer, got 41"):
        artists(41)
    for make in (imagenette, artworks, lambda n: artists(1, n), lambda n: first_of_each(artists(1, 1), n)):
        with pytest.raises(ValueError, match="1 or more, got 0"):
            make(0)
