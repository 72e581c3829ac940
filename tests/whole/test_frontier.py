"""The frontier's images, rates, intervals and plot, without training."""

from __future__ import annotations

import json
from math import isnan
from pathlib import Path
from xml.etree import ElementTree

import pytest
from controls import must_fail
from emoji_sd import OBJECTS, STYLES
from frontier.page import markdown, plot
from frontier.rates import row
from frontier.recipes import CATEGORIES, ERASED, LISTED, RECIPES, ROWS, WITHHELD, Category, Words, pictures
from frontier.work import result_file


def test_a_quarter_is_withheld_and_rows_have_400_images() -> None:
    assert sorted((*ERASED, *WITHHELD, *LISTED)) == sorted(OBJECTS)
    assert len(WITHHELD) == len(OBJECTS) // 4
    for name in ("4", "8", "16"):
        (words,) = ROWS[name]
        assert sum(len(pictures(category, words)) for category in CATEGORIES) == 400
        for category in CATEGORIES:
            named = {word for _, word, _ in pictures(category, words)}
            assert named.isdisjoint(words) or category == "erased"
    assert ROWS["1"] == [(word,) for word in ERASED]
    assert {style for _, _, style in pictures("listed", ("mono",))} == {*STYLES} - {"mono"}


def save(output: Path, name: str, words: Words, hits: dict[str, float]) -> None:
    """Made-up findings: of each category, this share of the images of each object shows what was asked for."""
    for category in CATEGORIES:
        file = result_file(output, name, 0, words, category)
        file.parent.mkdir(parents=True, exist_ok=True)
        found, seen = [], dict.fromkeys(OBJECTS, 0)
        asked = pictures(category, words)
        for _, word, style in asked:
            n = sum(word == other for _, other, _ in asked)
            hit = word in OBJECTS and seen[word] < hits[category] * n
            seen[word] = seen.get(word, 0) + 1
            found.append((word, style, word if hit else "crown", style or "mono"))
        file.write_text(json.dumps(found))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    words = ERASED[:4]
    rates: dict[str, dict[str, float]] = {
        "base": {"erased": 1.0, "listed": 1.0, "withheld": 0.8, "unnamed": 0.0},
        "esd-u, anchor": {"erased": 0.25, "listed": 0.9, "withheld": 0.4, "unnamed": 0.0},
    }
    for name, hits in rates.items():
        save(tmp_path, name, words, hits)
    return tmp_path


def test_rates_are_shares_of_the_base_models(output: Path) -> None:
    found = row(output, "esd-u, anchor", [0, 1], ROWS["4"])
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
    (output / "found" / "esd-u-anchor-0" / "4-listed.json").rename(output / "moved")
    assert row(output, "esd-u, anchor", [0], ROWS["4"]) is None, "not all of it was judged"
    (output / "moved").rename(output / "found" / "esd-u-anchor-0" / "4-listed.json")
    with must_fail("the base model's rate counts"):
        assert found.withheld.value == pytest.approx(0.4)
    assert row(output, "esd-x, anchor", [0], ROWS["4"]) is None


def test_the_table_and_the_plot(output: Path) -> None:
    table = {
        name: {"4": found}
        for name in ("base", "esd-u, anchor")
        if (found := row(output, name, [0], ROWS["4"])) is not None
    }
    text = markdown(table)
    assert "| esd-u, anchor | 4 | 0.25 | 0.25 | 0.9" in text, "four objects have no interval"
    assert len({line.count("|") for line in text.splitlines()}) == 1
    svg = ElementTree.fromstring(plot(table, {"esd-u, anchor": "with an anchor"}, "title"))
    texts = ["".join(text.itertext()) for text in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("with an anchor") == 2, "a label at the end of the line of each panel"
    with pytest.raises(ValueError, match=r"^A plot has at most 5 lines, got 6.$"):
        plot(table, dict.fromkeys(list(RECIPES)[:6], ""), "title")


def test_categories_are_those_of_the_module() -> None:
    expected: tuple[Category, ...] = ("erased", "listed", "withheld", "unnamed")
    assert expected == CATEGORIES
