"""Rows and figures in words, and which direction is better."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
from controls import must_fail
from evaluated import a_report

from diffusers_esd.report_rows import Estimate, Measure, read_column, read_row


@pytest.mark.parametrize(
    ("estimate", "measure", "text"),
    [
        (Estimate(0.5, 0.25, 0.754, 4, 4), "rate", "0.50 (0.25 to 0.75)"),
        (Estimate(-0.5, -1.0, 0.0, 4, 4), "rate", "-0.50 (-1.00 to 0.00)"),
        (Estimate(0.1592, 0.1585, 0.16, 4, 4), "mean", "0.159 (0.159 to 0.16)"),
        (Estimate(13.66, 9.99, 20, 4, 4), "distance", "13.7 (9.99 to 20)"),
        (Estimate(4703.4, None, None, 4, 4), "count", "4703"),
    ],
)
def test_rates_have_two_digits_after_the_point_and_others_three_that_count(
    estimate: Estimate, measure: Measure, text: str
) -> None:
    assert estimate.shown(measure) == text


def test_what_is_erased_should_be_gone_and_the_rest_stay() -> None:
    named, general = a_report().rows
    assert named.title == "named: a cat"
    assert named.is_better(("a cat",)) == "lower"
    assert named.is_better(("a dog",)) == "higher"
    assert named.is_better(()) == "higher"
    assert general.is_better(("a cat",)) == "higher"
    assert replace(general, better="").is_better(("a cat",)) == "", "a score of which nobody says what is better"
    assert replace(named, better="lower").is_better(()) == "lower", "a detector's"
    assert replace(named, label="face").title == "named: a cat: face"


def test_json_both_ways() -> None:
    report = a_report()
    for row in report.rows:
        assert read_row(asdict(row)) == row
    for column in report.columns:
        assert read_column({**asdict(column), "erases": list(column.erases)}) == column
    with must_fail("another judge is another row"):
        assert read_row({**asdict(report.rows[0]), "judge": "x"}) == report.rows[0]
