"""A report in Markdown: a table with bars, and everything that is needed to repeat it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from evaluated import a_report

from diffusers_esd.report_rows import Column, Estimate
from diffusers_esd.report_table import bar, markdown, summary, table


@pytest.mark.parametrize(("share", "filled"), [(0, 0), (0.04, 0), (0.06, 1), (0.5, 5), (1, 10), (1.7, 10), (-1, 0)])
def test_bars(share: float, filled: int) -> None:
    assert bar(share) == "█" * filled + "░" * (10 - filled)


def test_the_table() -> None:
    assert table(a_report()).splitlines() == [
        "| | base | no-a-cat | images |",
        "|---|---|---|---|",
        "| named: a cat (a judge) | ████████░░ 0.75 (0.30 to 0.95) | ██░░░░░░░░ 0.25 (0.05 to 0.70) | 4 of 4 |",
        "| general (scores, mean) | ██████████ 120 |  | 3 of 4 |",
    ]


def test_names_cannot_break_the_table() -> None:
    report = a_report()
    row = replace(report.rows[0], concept="a | b\nc", figures={"x|y": Estimate(1, None, None, 1, 1)})
    lines = table(replace(report, columns=(Column("x|y", (), {}),), rows=(row,))).splitlines()
    assert lines[0] == "| | x\\|y | images |"
    assert lines[2].startswith("| named: a \\| b c (a judge) | ██████████ 1.00 |")


def test_the_whole_report_says_how_it_was_made() -> None:
    text = markdown(a_report())
    assert table(a_report()) in text
    assert "- **named**: The prompt names it." in text
    assert "unused" not in text, "a group without a row"
    for line in (
        "- A note.",
        "- Prompts: 8, made, licence CC0",
        "- Judge: a judge, weights 222222222222",
        "- Images: num_inference_steps 2",
        "- Versions: torch 2.0",
    ):
        assert f"{line}\n" in text, line


def test_the_summary_has_what_a_method_erases_and_what_must_stay() -> None:
    report = a_report()
    assert summary(report, "no-a-cat") == {"named: a cat": report.rows[0]}
    assert summary(report, "base") == {}, "the base model erases nothing, and a mean is not a rate"
    kept = replace(report.rows[0], concept="", group="general")
    assert list(summary(replace(report, rows=(kept,)), "base")) == ["general"]
    both = replace(report, rows=(kept, replace(kept, judge="another")))
    assert list(summary(both, "base")) == ["general (a judge)", "general (another)"]
