"""The mean rating of a condition, and how often its interval contains the true one."""

from __future__ import annotations

from random import Random
from statistics import fmean, stdev

import pytest
from controls import must_fail

from diffusers_esd.study import Candidate, Key, Ratings, means
from diffusers_esd.study.mean import interval

Rows = list[list[int]]


def test_means_are_sorted_and_have_the_papers_beside() -> None:
    conditions = {"p0": "base", "p1": "base", "p2": "ESD_x", "p3": "mine", "p4": "mine"}
    key = Key("s1", {item: Candidate("Ada", condition, "") for item, condition in conditions.items()})
    rows = {"a1": (3, 4, 1, 5, 5), "a2": (3, 2, 2, 5, 4)}
    ratings = Ratings(key, {who: dict(zip(conditions, row, strict=True)) for who, row in rows.items()})
    mine, base, esd_x = means(ratings)
    assert [each.condition for each in (mine, base, esd_x)] == ["mine", "base", "ESD_x"]
    assert [each.mean for each in (mine, base, esd_x)] == [4.75, 3.0, 1.5]
    assert [each.published for each in (mine, base, esd_x)] == [None, 3.21, 1.12]
    assert [each.ratings for each in (mine, base, esd_x)] == [4, 4, 2]
    assert base.interval is not None
    assert 2 <= base.interval[0] < 3 < base.interval[1] <= 4
    assert esd_x.interval is None  # one picture
    assert means(ratings) == (mine, base, esd_x)


def test_an_interval_needs_two_participants_and_two_pictures() -> None:
    assert interval([[1, 5, 3]]) is None
    assert interval([[1], [5]]) is None
    assert interval([[2, 2], [2, 2]]) == (2.0, 2.0)


def test_participants_and_pictures_both_count() -> None:
    """Ratings that differ only between participants, or only between pictures, are not narrowed by the others."""
    for rows in ([[1] * 50, [5] * 50], [[1, 5]] * 50):
        assert interval(rows) == (1.0, 5.0)


def simulated(participants: int, pictures: int, chance: Random) -> Rows:
    """Ratings of a condition. Standard deviations: 0.5 between participants, 0.6 between pictures, 0.8 of an answer."""
    strict = [chance.gauss(0, 0.5) for _ in range(participants)]
    alike = [chance.gauss(0, 0.6) for _ in range(pictures)]
    return [[min(5, max(1, round(1.6 + x + y + chance.gauss(0, 0.8)))) for y in alike] for x in strict]


def independent(rows: Rows) -> tuple[float, float]:
    """The interval of a mean of independent ratings."""
    values = [rating for row in rows for rating in row]
    half = 1.96 * stdev(values) / len(values) ** 0.5
    return fmean(values) - half, fmean(values) + half


def test_the_interval_contains_the_true_mean() -> None:
    true = fmean(rating for seed in range(2000) for row in simulated(5, 10, Random(f"true {seed}")) for rating in row)
    studies = [simulated(13, 10, Random(seed)) for seed in range(100)]

    def covered(bounds: list[tuple[float, float] | None]) -> int:
        return sum(low <= true <= high for low, high in filter(None, bounds))

    assert true == pytest.approx(1.8, abs=0.02)
    assert covered([interval(rows, draws=300) for rows in studies]) == 94
    with must_fail("ratings of one picture are alike, and so are those of one participant"):
        assert covered([independent(rows) for rows in studies]) > 80
