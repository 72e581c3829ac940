"""`make report`: its parts, its cache, and its page."""

from __future__ import annotations

from pathlib import Path

import pytest
from controls import must_fail
from emoji_sd import OBJECTS, STYLES, load
from made import made
from report.erasures import of_object
from report.page import written
from report.parts import Part, parts

from diffusers_esd.evaluation.baselines.negative_prompt import NegativePrompt
from diffusers_esd.evaluation.prompts import PromptSet, repeated
from diffusers_esd.evaluation.suite import Suite

PARTS = parts()


def test_parts_have_folders_of_their_own_and_need_every_object_and_style() -> None:
    assert len({part.slug for part in PARTS}) == len(PARTS) == 8
    needed = {trained.concept for part in PARTS for trained in part.needs.values()}
    assert len(needed) == len(OBJECTS) + len(STYLES)
    assert len(next(part for part in parts(OBJECTS[:3]) if part.title.startswith("Every object")).needs) == 3


@pytest.mark.parametrize("part", PARTS[2:], ids=lambda part: part.slug)
def test_every_part_asks_what_its_judges_know(part: Part) -> None:
    suite = part.suite([])
    asked = [
        (judge, p.labels[judge.question]) for judge in suite.judges for p in suite.prompts if judge.question in p.labels
    ]
    assert len(asked) >= len(suite.prompts)
    assert all(judge.knows(label) for judge, label in asked)


@pytest.mark.parametrize("part", PARTS[:2], ids=lambda part: part.slug)
def test_erasures_are_asked_about_with_the_prompt_that_does_not_name_them(part: Part) -> None:
    pipe = load()
    concepts = list(dict.fromkeys(trained.concept for trained in part.needs.values()))
    suite = part.suite([made(pipe, concept, rank=1, size=32) for concept in concepts])
    unnamed = {prompt.concept: prompt.text for prompt in suite.prompts if prompt.group == "unnamed"}
    assert list(unnamed) == concepts
    assert unnamed["a cat"] == "an animal"


def test_the_cache_tells_configurations_apart(tmp_path: Path) -> None:
    folder = of_object("cat").folder(tmp_path)
    assert folder == of_object("cat").folder(tmp_path)
    assert not of_object("cat").is_kept(tmp_path)
    with must_fail("another configuration is another erasure"):
        assert of_object("cat", eta=3.0).folder(tmp_path) == folder


def test_a_part_becomes_a_section_of_the_page(tmp_path: Path) -> None:
    def suite(erasures: object) -> Suite:
        fields = {"group": "named", "concept": "a cat", "labels": {"subject": "a cat"}}
        prompts = repeated([("a cat in mono style", fields)], 2, first_seed=0, prefix="cat")
        return Suite("cats", PromptSet("cats", tuple(prompts)), judges)

    judges = next(part for part in PARTS if part.matrix).suite([]).judges
    part = Part("A <part>", ("About it.",), {}, lambda erasures: [NegativePrompt(["a cat"])], suite)
    report = part.measure(tmp_path / "cache", tmp_path)
    assert report.row("named", "a cat").figures["base"].expected == 2
    page = written([part], [report], tmp_path / "cache", tmp_path)
    assert page.count("<section") == 1
    assert page.count("data:image/webp") == 4
    assert "A &lt;part&gt;" in page
    assert "make report" in page
