"""Figures: rates with Wilson's interval, means and differences with a bootstrap's, and what was counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from controls import must_fail
from evaluated import Bright, Brightness
from scipy.stats import binomtest

from diffusers_esd.evaluation.figures import Judged, difference, estimate, rows
from diffusers_esd.evaluation.judges.base import Finding, Judge
from diffusers_esd.evaluation.prompts import Prompt
from diffusers_esd.report_rows import Estimate


class Parts(Judge):
    """Detects parts."""

    kind = "detects"
    name = "parts"
    classes = ("face", "feet")

    def record(self) -> dict[str, Any]:
        return {}

    def __call__(self, pictures: Any) -> Any:
        raise NotImplementedError


def prompt(case: str, label: str = "bright", **fields: Any) -> Prompt:
    return Prompt(case=case, text="x", seed=0, labels={"subject": label}, **fields)


def found(**labels: str) -> Mapping[str, tuple[Finding, ...]]:
    return {case: tuple(Finding(part, 0.5) for part in text.split()) for case, text in labels.items()}


@pytest.mark.parametrize(("hits", "n"), [(0, 4), (3, 4), (16, 16), (1, 500)])
def test_a_rate_has_wilsons_interval(hits: int, n: int) -> None:
    figure = estimate([1.0] * hits + [0.0] * (n - hits), n + 1, "rate")
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    assert (figure.value, figure.judged, figure.expected) == (hits / n, n, n + 1)
    assert (figure.low, figure.high) == pytest.approx((expected.low, expected.high))


def test_a_bootstrap_of_two_values_by_hand() -> None:
    """Means of resamples of 0 and 1 are 0, 0.5 and 1 with 1/4, 1/2 and 1/4."""
    assert estimate([0.0, 1.0], 2, "mean") == Estimate(0.5, 0.0, 1.0, 2, 2)
    assert estimate([0.0, 1.0], 2, "count") == Estimate(1.0, 0.0, 2.0, 2, 2)


@pytest.mark.parametrize(("measure", "value"), [("mean", 3.0), ("count", 6.0)])
def test_equal_numbers_have_no_interval(measure: Any, value: float) -> None:
    """All resamples are equal: a count of zero would be `0 (0 to 0)`, as if it were certain."""
    assert estimate([3.0, 3.0], 2, measure) == Estimate(value, None, None, 2, 2)
    with must_fail("a rate has Wilson's"):
        assert estimate([0.0, 0.0], 2, "rate").high is None


def test_the_bootstrap_is_near_the_normal_interval_and_always_the_same() -> None:
    values = np.random.default_rng(0).normal(2.0, 3.0, 400).tolist()
    figure = estimate(values, 400, "mean")
    half = 1.96 * np.std(values) / 20
    assert figure.value == pytest.approx(np.mean(values))
    assert (figure.low, figure.high) == pytest.approx((figure.value - half, figure.value + half), abs=0.1 * half)
    assert estimate(values, 400, "mean") == figure


def test_many_values_need_little_memory_and_give_all_resamples() -> None:
    few = estimate([0.0, 1.0] * 5000, 10_000, "mean")
    assert (few.low, few.high) == pytest.approx((0.4902, 0.5098), abs=0.001)


def test_differences_are_of_the_same_cases() -> None:
    """Two of three cases are lost in both runs of the method: -1 each, whatever the base model's other case is."""
    base = {"a": 1.0, "b": 1.0, "c": 0.0, "d": 1.0}
    figure = difference({"a": 0.0, "b": 0.0}, base, 4, "rate")
    assert figure == Estimate(-1.0, None, None, 2, 4)
    with must_fail("rates of different cases differ otherwise"):
        assert figure.value == 0.0 - 0.75


def test_a_judge_that_recognises_gives_a_rate_for_each_group_and_concept() -> None:
    prompts = [
        prompt("a", group="named", concept="a cat"),
        prompt("b", group="named", concept="a cat"),
        prompt("c", group="general"),
        prompt("d", "dark", group="general"),
        prompt("e", "a colour that it does not know", group="general"),
        prompt("f", "unknown", group="strange"),
    ]
    base = found(a="bright", b="bright", c="bright", d="bright", e="", f="")
    erased = found(a="dark", b="bright dark", c="bright", e="", f="")
    named, general = rows(Judged(Bright(), {"base": base, "no": erased}), prompts)
    assert (named.group, named.concept, named.judge, named.measure) == ("named", "a cat", "bright or dark", "rate")
    assert {method: figure.value for method, figure in named.figures.items()} == {"base": 1.0, "no": 0.5}
    assert named.differences["no"].value == -0.5
    assert named.by_label == {}, "they ask for one thing"
    counts = {method: (f.value, f.judged, f.expected) for method, f in general.figures.items()}
    assert counts == {"base": (0.5, 2, 2), "no": (1.0, 1, 2)}, "`d` of the method is missing, `e` is not asked"
    assert {label: {m: f.value for m, f in by.items()} for label, by in general.by_label.items()} == {
        "bright": {"base": 1.0, "no": 1.0},
        "dark": {"base": 0.0},
    }
    assert general.differences["no"] == Estimate(0.0, None, None, 1, 2)


def test_a_judge_that_detects_counts_its_classes() -> None:
    prompts = [prompt("a"), prompt("b")]
    judged = Judged(Parts(), {"base": found(a="face face feet", b="hat"), "no": found(a="feet", b="")})
    made = {row.label: row for row in rows(judged, prompts)}
    assert list(made) == ["images with any", "detections", "face", "feet"]
    values = {label: [row.figures[m].value for m in ("base", "no")] for label, row in made.items()}
    assert values == {"images with any": [0.5, 0.5], "detections": [3, 1], "face": [2, 0], "feet": [1, 1]}
    assert {row.better for row in made.values()} == {"lower"}
    assert made["detections"].differences["no"].value == -2


def test_a_judge_that_scores_gives_a_mean() -> None:
    base, method = {"a": (Finding("s", 1.0),), "b": (Finding("s", 3.0),)}, {"a": (Finding("s", 2.0),)}
    (row,) = rows(Judged(Brightness(), {"base": base, "no": method}), [prompt("a"), prompt("b")])
    assert (row.measure, row.figures["base"].value, row.figures["no"].value) == ("mean", 2.0, 2.0)
    assert row.differences["no"] == Estimate(1.0, None, None, 1, 2)
