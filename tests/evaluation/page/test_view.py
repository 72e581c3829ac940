"""What the page shows: bars in percent of their scale, matrices, curves."""

from __future__ import annotations

from dataclasses import replace

import pytest
from controls import must_fail
from evaluated import a_report

from diffusers_esd.evaluation.page.view import Bar, bars_of, curves_of, matrices_of, matrix_of
from diffusers_esd.report_rows import Estimate


def test_bars_of_a_rate_are_percent() -> None:
    report = a_report()
    bars = bars_of(report, report.rows[0])
    assert bars.title == "named: a cat"
    assert bars.note == "share of images, a judge, 4 images each"
    assert bars.bars == (
        Bar("base", "0.75 (0.30 to 0.95)", 75.0, 30.0, 95.0, "base"),
        Bar("no-a-cat", "0.25 (0.05 to 0.70)", 25.0, 5.0, 70.0, "gone"),
    )
    assert [bar.method for bar in bars_of(report, report.rows[0], ["no-a-cat"]).bars] == ["no-a-cat"]
    kept = replace(report.rows[0], concept="")
    assert bars_of(report, kept).bars[1].aim == "kept"


def test_other_bars_end_at_the_largest_figure() -> None:
    report = a_report()
    scores = {"base": Estimate(2.0, 1.0, 4.0, 3, 4), "no-a-cat": Estimate(1.0, 0.0, 2.0, 4, 4)}
    bars = bars_of(report, replace(report.rows[1], figures=scores))
    assert bars.note == "mean, scores, 3 of 4 images each"
    assert [(bar.share, bar.low, bar.high, bar.aim) for bar in bars.bars] == [
        (50.0, 25.0, 100.0, "base"),
        (25.0, 0.0, 50.0, "kept"),
    ]
    nothing = bars_of(report, replace(report.rows[1], figures={"base": Estimate(0.0, None, None, 4, 4)}))
    assert (nothing.bars[0].share, nothing.bars[0].low) == (0.0, None)


def test_a_matrix_has_every_label_under_every_method() -> None:
    matrix = matrix_of(a_report(), "All", {"no-a-cat": "a cat"})
    assert matrix.columns == ("a cat", "a dog")
    shares = {name: [(cell.share, cell.own) for cell in cells] for name, cells in matrix.rows}
    assert shares == {"base": [(0.75, False)] * 2, "no-a-cat": [(0.25, True), (0.25, False)]}
    report = a_report()
    one = replace(report, rows=(replace(report.rows[0], by_label={}, figures={"base": Estimate(1, 0, 1, 1, 1)}),))
    matrix = matrix_of(one, "One", {})
    assert (matrix.columns, matrix.rows[1][1][0].share) == (("a cat",), None)


def test_rows_that_ask_for_the_same_are_pooled() -> None:
    """1 of 1 and 1 of 3 images are 2 of 4."""
    row = a_report().rows[0]
    rates = [{"a cat": {"base": Estimate(1.0, 0, 1, 1, 1)}}, {"a cat": {"base": Estimate(1 / 3, 0, 1, 3, 3)}}]
    both = replace(a_report(), rows=tuple(replace(row, group=str(i), by_label=by) for i, by in enumerate(rates)))
    assert matrix_of(both, "All", {}).rows[0][1][0].share == 0.5
    with must_fail("the last row alone"):
        assert matrix_of(both, "All", {}).rows[0][1][0].share == 0.333


def test_judges_have_a_matrix_each() -> None:
    row = a_report().rows[0]
    report = replace(a_report(), rows=(row, replace(row, judge="another"), replace(row, judge="x", measure="mean")))
    assert [matrix.title for matrix in matrices_of(report, "All", {})] == [f"All ({row.judge})", "All (another)"]
    assert [matrix.title for matrix in matrices_of(replace(report, rows=(row,)), "All", {})] == ["All"]


def test_curves_have_the_scale_of_every_figure() -> None:
    loss, alignment = curves_of("no", [(2.0, 1.0), (1.0, 0.0), (0.0, -1.0)], eta=1.0)
    assert loss.points == "0.0,0.0 50.0,20.0 100.0,40.0"
    assert alignment.points == "0.0,0.0 50.0,20.0 100.0,40.0"
    assert alignment.levels == (("intact", 0.0), ("0", 20.0), ("target", 40.0))
    assert (loss.last, alignment.last) == ("0", "-1.00")
    assert curves_of("no", [(1.0, 1.0)], eta=1.0) == ()
    with must_fail("another eta is another scale"):
        assert curves_of("no", [(2.0, 1.0), (1.0, 0.0)], eta=3.0)[1].points == "0.0,0.0 100.0,20.0"


@pytest.mark.parametrize("n", [200, 399, 1000, 5000])
def test_long_trainings_have_few_points(n: int) -> None:
    loss, _ = curves_of("no", [(1.0, 1.0)] * n, eta=1.0)
    points = [tuple(map(float, point.split(","))) for point in loss.points.split()]
    assert len(points) <= 200
    assert (points[0], points[-1]) == ((0.0, 0.0), (100.0, 0.0))
