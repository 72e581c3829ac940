"""On the shipped small model: what is erased is gone, what is not stays, and the controls fail as they must.

Rates are the judge's, on seeds that nothing was tuned on, next to the base model's on the same prompts and seeds.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from emoji_sd import (
    ALL_PAIRS,
    STYLES,
    Judge,
    Rates,
    class_of,
    load,
    phrase,
    rates,
    settings,
    some_pairs,
    unnamed,
)

from diffusers_esd import Erasure, ESDTrainer

SEED = 500_000


def pairs_for(word: str) -> tuple[tuple[str, str], ...]:
    """Every object in two styles, and twenty pictures of `word`."""
    return (*some_pairs(2), *[(word, style) for style in STYLES] * 4)


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.from_pretrained()


_BASE: dict[Any, Any] = {}


def base_rates(judge: Judge, pairs: tuple[tuple[str, str], ...]) -> Rates:
    """The base model's rates, computed once for each list of pictures."""
    if pairs not in _BASE:
        _BASE[pairs] = rates(load(), judge, pairs, seed=SEED)
    return _BASE[pairs]


def base_unnamed(judge: Judge) -> dict[str, float]:
    """What the base model draws for "an animal"."""
    if "unnamed" not in _BASE:
        _BASE["unnamed"] = unnamed(load(), judge, n=240)
    return _BASE["unnamed"]


def check_object(word: str, judge: Judge, record: Any) -> Erasure:
    """Erase an object with ESD-u and hold it to what the documentation promises."""
    pipe, pairs = load(), pairs_for(word)
    erasure = ESDTrainer(pipe, **settings("esd-u")).erase(phrase(word))
    before, after = base_rates(judge, pairs), rates(pipe, judge, pairs, seed=SEED)
    kept = after.other_objects(word) / before.other_objects(word)
    record(f"{word}_erased", round(after.object(word), 3))
    record(f"{word}_kept", round(kept, 3))
    print(f"{word}: {before.object(word):.2f} -> {after.object(word):.2f}, others {kept:.3f} of base")
    assert before.object(word) >= 0.6, "the control: the base draws it"
    assert after.object(word) <= 0.10
    if class_of(word) == "animal":
        share, base = unnamed(pipe, judge, n=240)[word], base_unnamed(judge)[word]
        record(f"{word}_unnamed", (round(base, 3), round(share, 3)))
        print(f"an animal is a {word}: {base:.3f} -> {share:.3f}")
        assert base > 0.02, "the control: the base draws it unnamed"
        assert share <= base / 3
    _KEPT[word] = kept
    return erasure


_KEPT: dict[str, float] = {}


def check_style(style: str, judge: Judge, record: Any) -> Erasure:
    """Erase a style with ESD-x and hold it to what the documentation promises."""
    pipe, pairs = load(), some_pairs(2)
    erasure = ESDTrainer(pipe, **settings("esd-x", style=True)).erase(f"art in {style} style")
    before, after = base_rates(judge, pairs), rates(pipe, judge, pairs, seed=SEED)
    kept = after.object() / before.object()
    record(f"{style}_erased", round(after.style(style), 3))
    record(f"{style}_kept", round(kept, 3))
    print(f"{style}: {before.style(style):.2f} -> {after.style(style):.2f}, objects {kept:.3f} of base")
    assert before.style(style) >= 0.6, "the control: the base draws it"
    assert after.style(style) <= 0.30
    assert kept >= 0.93
    return erasure


def test_the_small_model_draws_what_it_is_asked_for(judge: Judge) -> None:
    found = base_rates(judge, some_pairs(2))
    assert found.object() >= 0.9
    animals = base_unnamed(judge)
    assert sum(share for word, share in animals.items() if class_of(word) == "animal") >= 0.9


def test_an_object_is_gone_named_or_not_and_the_others_stay(judge: Judge, record_property: Any) -> None:
    erasure = check_object("cat", judge, record_property)
    assert _KEPT["cat"] >= 0.93

    pipe = load()
    erasure.apply(pipe, scale=0.0)
    cats = tuple(pair for pair in pairs_for("cat") if pair[0] == "cat")
    off = rates(pipe, judge, cats, seed=SEED)
    assert torch.equal(off.object_found, rates(load(), judge, cats, seed=SEED).object_found), "scale 0 erases nothing"


def test_a_style_is_gone_and_the_objects_stay(judge: Judge, record_property: Any) -> None:
    check_style("mono", judge, record_property)


def test_an_adapter_for_another_object_leaves_this_one(judge: Judge) -> None:
    pipe = load()
    ESDTrainer(pipe, **settings("esd-u")).erase(phrase("pizza"))
    cats = [("cat", style) for style in STYLES] * 4
    assert rates(pipe, judge, cats, seed=SEED).object("cat") >= 0.8 * base_rates(judge, tuple(cats)).object("cat")


@pytest.mark.slow
@pytest.mark.parametrize(
    "word", ["dog", "penguin", "fish", "pizza", "banana", "rocket", "bicycle", "tulip", "guitar", "clock"]
)
def test_ten_objects(word: str, judge: Judge, record_property: Any) -> None:
    check_object(word, judge, record_property)


@pytest.mark.slow
def test_the_others_stay_on_average() -> None:
    assert len(_KEPT) >= 10, "runs after the ten objects"
    assert sum(_KEPT.values()) / len(_KEPT) >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize("style", list(STYLES))
def test_five_styles(style: str, judge: Judge, record_property: Any) -> None:
    check_style(style, judge, record_property)


@pytest.mark.slow
def test_the_small_model_on_all_pictures(judge: Judge) -> None:
    found = rates(load(), judge, ALL_PAIRS * 2, seed=SEED)
    print(f"objects {found.object():.3f}", {style: round(found.style(style), 3) for style in STYLES})
    assert found.object() >= 0.95
    assert found.other_styles() >= 0.80
