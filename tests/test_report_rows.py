"""Rows and figures in words, and which direction is better."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
from controls import must_fail
from evaluated import a_report

from diffusers_esd.report_rows import Estimate, read_column, read_row


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(0.5, 0.25, 0.754, 4, 4), "0.50 (0.25 to 0.75)"),
        (Estimate(13.66, 9.99, 20, 4, 4), "13.7 (9.99 to 20.0)"),
        (Estimate(4703.4, None, None, 4, 4), "4703"),
        (Estimate(-0.5, -1.0, 0.0, 4, 4), "-0.50 (-1.00 to 0.00)"),
    ],
)
def test_figures_in_three_digits(estimate: Estimate, text: str) -> None:
    assert str(estimate) == text


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
