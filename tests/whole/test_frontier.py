"""The frontier's images, rates, intervals and plot, without training."""

from __future__ import annotations

import json
from math import isnan
from pathlib import Path
from xml.etree import ElementTree

import pytest
from controls import must_fail
from emoji_sd import OBJECTS, STYLES
from emoji_sd.preset import LARGE
from frontier.page import markdown, plot
from frontier.rates import row
from frontier.recipes import CATEGORIES, GROUNDS, RECIPES, Category, Words, pictures
from frontier.work import Frontier, result_file

SMALL = GROUNDS["small"]


def test_a_quarter_is_withheld_and_rows_have_400_images() -> None:
    assert sorted((*SMALL.erased, *SMALL.withheld, *SMALL.listed)) == sorted(OBJECTS)
    assert len(SMALL.withheld) == len(OBJECTS) // 4
    for name in ("4", "8", "16"):
        (words,) = SMALL.rows[name]
        assert sum(len(pictures(SMALL, category, words)) for category in CATEGORIES) == 400
        for category in CATEGORIES:
            named = {word for _, word, _ in pictures(SMALL, category, words)}
            assert named.isdisjoint(words) or category == "erased"
    assert SMALL.rows["1"] == [(word,) for word in SMALL.erased]
    assert {style for _, _, style in pictures(SMALL, "listed", ("mono",))} == {*STYLES} - {"mono"}


def test_half_of_the_large_models_objects_are_withheld_with_their_synonyms() -> None:
    large = GROUNDS["large"]
    assert sorted((*large.erased, *large.withheld, *large.listed)) == sorted(LARGE.vocabulary.objects)
    assert (len(large.erased), len(large.withheld)) == (64, 100)
    assert {"rooster", "cockerel"} <= set(large.withheld_words), "a withheld object and its synonym"
    for name in ("16", "32", "64"):
        (words,) = large.rows[name]
        images = {category: pictures(large, category, words) for category in CATEGORIES}
        assert 350 <= sum(map(len, images.values())) <= 420
        assert {word for _, word, _ in images["erased"]} == set(words)
        assert {word for _, word, _ in images["unnamed"]} == set(LARGE.vocabulary.classes)


def save(frontier: Frontier, name: str, words: Words, hits: dict[str, float]) -> None:
    """Made-up findings: of each category, this share of the images of each object shows what was asked for."""
    for category in CATEGORIES:
        file = result_file(frontier, name, 0, words, category)
        file.parent.mkdir(parents=True, exist_ok=True)
        found, seen = [], dict.fromkeys(OBJECTS, 0)
        asked = pictures(SMALL, category, words)
        for _, word, style in asked:
            n = sum(word == other for _, other, _ in asked)
            hit = word in OBJECTS and seen[word] < hits[category] * n
            seen[word] = seen.get(word, 0) + 1
            found.append((word, style, word if hit else "crown", style or "mono"))
        file.write_text(json.dumps(found))


@pytest.fixture
def frontier(tmp_path: Path) -> Frontier:
    made, words = Frontier(SMALL, tmp_path), SMALL.erased[:4]
    rates: dict[str, dict[str, float]] = {
        "base": {"erased": 1.0, "listed": 1.0, "withheld": 0.8, "unnamed": 0.0},
        "esd-u, anchor": {"erased": 0.25, "listed": 0.9, "withheld": 0.4, "unnamed": 0.0},
    }
    for name, hits in rates.items():
        save(made, name, words, hits)
    return made


def test_rates_are_shares_of_the_base_models(frontier: Frontier) -> None:
    found = row(frontier, "esd-u, anchor", [0, 1], SMALL.rows["4"])
    assert found is not None
    assert found.erased.value == pytest.approx(0.25)
    assert found.worst == pytest.approx(0.25)
    assert found.withheld.value == pytest.approx(0.5)
    # Every object has the same rate, except the one that the judge answers otherwise: nothing to resample.
    assert (found.withheld.low, found.withheld.high) == pytest.approx((0.5, 0.5))
    assert found.listed.low < found.listed.value <= found.listed.high
    assert isnan(found.erased.low)
    assert found.images == 400
    assert found.seeds == 1, "the other seed was not judged"
    (frontier.output / "found" / "esd-u-anchor-0" / "4-listed.json").rename(frontier.output / "moved")
    assert row(frontier, "esd-u, anchor", [0], SMALL.rows["4"]) is None, "not all of it was judged"
    (frontier.output / "moved").rename(frontier.output / "found" / "esd-u-anchor-0" / "4-listed.json")
    with must_fail("the base model's rate counts"):
        assert found.withheld.value == pytest.approx(0.4)
    assert row(frontier, "esd-x, anchor", [0], SMALL.rows["4"]) is None


def test_the_table_and_the_plot(frontier: Frontier) -> None:
    table = {
        name: {"4": found}
        for name in ("base", "esd-u, anchor")
        if (found := row(frontier, name, [0], SMALL.rows["4"])) is not None
    }
    text = markdown(table)
    assert "| esd-u, anchor | 4 | 0.25 | 0.25 | 0.9" in text, "four objects have no interval"
    assert len({line.count("|") for line in text.splitlines()}) == 1
    svg = ElementTree.fromstring(plot(table, {"esd-u, anchor": "with an anchor"}, "title", SMALL.sizes))
    texts = ["".join(text.itertext()) for text in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("with an anchor") == 2, "a label at the end of the line of each panel"
    with pytest.raises(ValueError, match=r"^A plot has at most 5 lines, got 6.$"):
        plot(table, dict.fromkeys(list(RECIPES)[:6], ""), "title", SMALL.sizes)


def test_categories_are_those_of_the_module() -> None:
    expected: tuple[Category, ...] = ("erased", "listed", "withheld", "unnamed")
    assert expected == CATEGORIES
