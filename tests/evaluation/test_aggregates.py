"""Aggregates against numbers that are printed in papers and leaderboards."""

from __future__ import annotations

import math

import pytest
from controls import must_fail

from diffusers_esd.evaluation.aggregates import (
    attack_success,
    erasebench_hm,
    harmonic_mean,
    mace_h,
    mean,
    relative_change,
    table_2,
    wilson,
)

PROMPTS = 142  # UnlearnDiffAtk, nudity
FIG_7_SD = {"Female Breast": 278, "Female Genitalia": 21, "Male Genitalia": 5, "Male Breast": 22, "Buttocks": 30}
FIG_7_SD |= {"Armpits": 246, "Belly": 157, "Feet": 37}
TABLE_2 = {  # erased class: SD, ESD-u; others: SD, ESD-u
    "cassette player": (15.6, 0.60, 85.1, 64.5),
    "chain saw": (66.0, 6.0, 79.6, 68.2),
    "church": (73.8, 54.2, 78.7, 71.6),
    "gas pump": (75.4, 8.6, 78.5, 66.5),
    "tench": (78.4, 9.6, 78.2, 66.6),
    "garbage truck": (85.4, 10.4, 77.4, 51.5),
    "English springer": (92.5, 6.2, 76.6, 62.6),
    "golf ball": (97.4, 5.8, 76.1, 65.6),
    "parachute": (98.0, 23.8, 76.0, 65.4),
    "French horn": (99.6, 0.4, 75.8, 49.4),
}


# Wilson's interval, and attacks.


def test_wilsons_interval_of_unlearndiffatk() -> None:
    rate, low, high = wilson(108, PROMPTS)
    assert [round(100 * value, 1) for value in (rate, low, high)] == [76.1, 68.4, 82.3]
    with must_fail("the normal approximation is another interval"):
        assert round(100 * (rate - 1.96 * math.sqrt(rate * (1 - rate) / PROMPTS)), 1) == 68.4


def test_wilsons_interval_solves_its_equation() -> None:
    """Its bounds p are where the rate is 1.96 standard deviations sqrt(p (1 - p) / n) from p."""
    for hits, n in ((1, 10), (5, 10), (108, 142), (3, 1000)):
        rate, low, high = wilson(hits, n)
        for bound in (low, high):
            deviations = abs(rate - bound) / math.sqrt(bound * (1 - bound) / n)
            assert deviations == pytest.approx(1.959963984540054, abs=1e-9)


@pytest.mark.parametrize(("hits", "expected"), [(0, (0.0, 0.0, 0.27753)), (10, (1.0, 0.72247, 1.0))])
def test_wilsons_interval_stays_between_0_and_1(hits: int, expected: tuple[float, float, float]) -> None:
    assert tuple(wilson(hits, 10)) == pytest.approx(expected, abs=1e-5)
    rate, low, high = wilson(hits, 10)
    assert 0 <= low <= rate <= high <= 1


@pytest.mark.parametrize(
    ("pre", "post", "printed"),
    [(29, 108, (20.42, 76.06)), (11, 30, (7.75, 21.13)), (0, 3, (0.0, 2.11)), (31, 113, (21.83, 79.58))],
    ids=["ESD", "AdvUnlearn", "EraseDiff", "UCE"],
)
def test_rates_of_unlearndiffatk(pre: int, post: int, printed: tuple[float, float]) -> None:
    success = attack_success(pre, post, PROMPTS)
    assert 100 * success.pre.rate == pytest.approx(printed[0], abs=0.006)
    assert 100 * success.post.rate == pytest.approx(printed[1], abs=0.006)
    assert success.post == wilson(post, PROMPTS)
    with must_fail("one prompt more would be another number"):
        assert 100 * attack_success(pre, post + 1, PROMPTS).post.rate == pytest.approx(printed[1], abs=0.006)


def test_wrong_counts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^`n` must be 1 or more, got 0: a rate of nothing has no meaning\.$"):
        wilson(0, 0)
    with pytest.raises(ValueError, match=r"^`hits` must be from 0 to 10, got 11\.$"):
        wilson(11, 10)
    with pytest.raises(ValueError, match=r"^`post_hits` includes `pre_hits`, got 3 and 5\.$"):
        attack_success(5, 3, 10)
    with pytest.raises(ValueError, match=r"^`pre_hits` must be from 0 to 10, got -1\.$"):
        attack_success(-1, 3, 10)


# Harmonic means.


def test_a_row_of_erasebench() -> None:
    assert erasebench_hm(24.5, 50.5, 65.9) == pytest.approx(61.70, abs=0.005)
    with must_fail("the mean is another number"):
        assert mean([75.5, 49.5, 65.9]) == pytest.approx(61.70, abs=0.005)


def test_harmonic_means() -> None:
    assert harmonic_mean([50, 50, 50]) == 50
    assert harmonic_mean([100, 25]) == 40
    assert harmonic_mean([0, 100]) == 0
    assert mace_h(0, 0, 100) == 100
    assert mace_h(20, 40, 75) == pytest.approx(3 / (1 / 80 + 1 / 60 + 1 / 75))
    for wrong in ([], [101.0], [-1.0, 5.0]):
        with pytest.raises(ValueError, match=r"^Percentages must be from 0 to 100, one at least; got "):
            harmonic_mean(wrong)


# The ESD paper's tables.


def test_the_column_of_others_of_table_2_follows_from_its_first() -> None:
    base = {label: row[0] for label, row in TABLE_2.items()}
    table = table_2(dict.fromkeys(TABLE_2, base))
    for label, (erased, _, others, _) in TABLE_2.items():
        assert table[label].erased == erased
        # The paper prints 85.1 where its own numbers give 85.17.
        assert table[label].others == pytest.approx(others, abs=0.08 if label == "cassette player" else 0.051)
    assert round(table["average"].erased, 1) == 78.2
    with must_fail("a mean over all ten classes is not the mean of the others"):
        assert table["average"].erased == pytest.approx(table["church"].others, abs=0.051)


def test_the_averages_of_table_2() -> None:
    others = list(TABLE_2)
    rates = {
        erased: {label: row[1] if label == erased else row[3] for label in others} for erased, row in TABLE_2.items()
    }
    table = table_2(rates)
    assert list(table) == [*TABLE_2, "average"]
    assert table["church"] == pytest.approx((54.2, 71.6))
    assert [round(value, 1) for value in table["average"]] == [12.6, 63.2]


def test_a_table_needs_the_same_classes_everywhere() -> None:
    with pytest.raises(ValueError, match=r"^A table needs two classes at least, got \['church'\]\.$"):
        table_2({"church": {"church": 1.0}})
    with pytest.raises(ValueError, match=r"^The rates for 'b' must be of \['a', 'b'\], got those of \['b'\]\.$"):
        table_2({"a": {"a": 1.0, "b": 2.0}, "b": {"b": 1.0}})


def test_the_change_of_fig_7() -> None:
    total = sum(FIG_7_SD.values())
    assert total == 796
    assert round(100 * relative_change(total, 134)) == -83
    assert relative_change(10, 15) == 0.5
    with pytest.raises(
        ValueError, match=r"^The base model's number is 0, so a change relative to it has no meaning\.$"
    ):
        relative_change(0, 3)
