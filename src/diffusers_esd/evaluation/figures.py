"""Figures: the fourth stage. Rates, means and counts of what judges found, with intervals of 95 %.

A rate has Wilson's interval. A mean, a count and every difference to the base model have a bootstrap interval: 2,000
resamples of the cases, those of method and base together; none if all numbers are equal. Images of the same prompt are
not independent, so the intervals say how much other seeds would change a figure, not other prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..report_rows import Estimate, Measure, Row
from ..streams import stream
from .aggregates import wilson
from .judges.base import Judge
from .judging import Findings
from .prompts import Prompt

_RESAMPLES, _LARGEST = 2000, 2**23

Value = Callable[[str], float]
"""A number of each case."""


@dataclass(frozen=True)
class Judged:
    """What a judge found in the images of all methods.

    Attributes:
        judge: The judge.
        findings: By method; the first is the base model.
    """

    judge: Judge
    findings: Mapping[str, Findings]


def rows(judged: Judged, prompts: Sequence[Prompt]) -> list[Row]:
    """The rows of a judge: one for each group and concept, in the order of the prompts."""
    judge = judged.judge
    found: list[Row] = []
    for (group, concept), part in _grouped(prompts):
        if judge.kind == "recognises":
            answered = [prompt for prompt in part if judge.question in prompt.labels]
            asked = [prompt for prompt in answered if judge.knows(prompt.labels[judge.question])]
            if asked:
                found.append(_recognised(judged, group, concept, asked))
        elif judge.kind == "detects":
            found += _detected(judged, group, concept, part)
        else:
            found.append(_row(judged, group, concept, part, _score, "mean"))
    return found


def _grouped(prompts: Sequence[Prompt]) -> Iterator[tuple[tuple[str, str], list[Prompt]]]:
    keys = dict.fromkeys((prompt.group, prompt.concept) for prompt in prompts)
    for key in keys:
        yield key, [prompt for prompt in prompts if (prompt.group, prompt.concept) == key]


def _recognised(judged: Judged, group: str, concept: str, prompts: Sequence[Prompt]) -> Row:
    """The rate at which what the prompts ask for is recognised."""
    question = judged.judge.question
    asked = {prompt.case: prompt.labels[question] for prompt in prompts}

    def hit(findings: Findings, case: str) -> float:
        return float(any(finding.label == asked[case] for finding in findings[case]))

    row = _row(judged, group, concept, prompts, hit, "rate")
    labels = dict.fromkeys(asked.values())
    if len(labels) > 1:
        for label in labels:
            part = [prompt for prompt in prompts if asked[prompt.case] == label]
            row.by_label[label] = _row(judged, group, concept, part, hit, "rate").figures
    return row


def _detected(judged: Judged, group: str, concept: str, prompts: Sequence[Prompt]) -> Iterator[Row]:
    """The share of images with any detection, the number of detections, and that of each class."""
    classes = judged.judge.classes

    def number(findings: Findings, case: str) -> float:
        return sum(finding.label in classes for finding in findings[case])

    yield _row(judged, group, concept, prompts, lambda f, case: float(number(f, case) > 0), "rate", "images with any")
    yield _row(judged, group, concept, prompts, number, "count", "detections")
    for name in classes:
        yield _row(judged, group, concept, prompts, partial(_number_of, name), "count", name)


def _number_of(name: str, findings: Findings, case: str) -> float:
    return sum(finding.label == name for finding in findings[case])


def _score(findings: Findings, case: str) -> float:
    (finding,) = findings[case]
    return finding.score


def _row(
    judged: Judged,
    group: str,
    concept: str,
    prompts: Sequence[Prompt],
    value: Callable[[Findings, str], float],
    measure: Measure,
    label: str = "",
) -> Row:
    judge = judged.judge
    base = next(iter(judged.findings))
    values = {
        method: {p.case: value(findings, p.case) for p in prompts if p.case in findings}
        for method, findings in judged.findings.items()
    }
    return Row(
        group=group,
        concept=concept,
        judge=judge.name,
        label=label,
        measure=measure,
        better="lower" if judge.kind == "detects" else judge.better,
        figures={m: estimate(list(v.values()), len(prompts), measure) for m, v in values.items() if v},
        differences={
            m: difference(v, values[base], len(prompts), measure) for m, v in values.items() if m != base and v
        },
    )


def estimate(values: Sequence[float], expected: int, measure: Measure) -> Estimate:
    """A figure of some images and its interval.

    Args:
        values: Of each image: 0 or 1 for a rate.
        expected: Number of images that there should be.
        measure: `"rate"`, `"mean"` or `"count"`, the sum.
    """
    n, total = len(values), float(sum(values))
    if measure == "rate":
        interval = wilson(round(total), n)
        return Estimate(total / n, interval.low, interval.high, n, expected)
    if len(set(values)) == 1:  # resamples of equal numbers are equal, and would look certain
        return Estimate(total / n if measure == "mean" else total, None, None, n, expected)
    low, high = _bootstrap(torch.tensor(values, dtype=torch.float64))
    factor = n if measure == "count" else 1
    return Estimate(total / n * factor, low * factor, high * factor, n, expected)


def difference(values: Mapping[str, float], base: Mapping[str, float], expected: int, measure: Measure) -> Estimate:
    """Method minus base over the cases that both have.

    Args:
        values: Of the method, by case.
        base: Of the base model, by case.
        expected: Number of images that there should be.
        measure: `"rate"`, `"mean"` or `"count"`.
    """
    pairs = [values[case] - base[case] for case in values if case in base]
    return estimate(pairs, expected, "mean" if measure == "rate" else measure)


def _bootstrap(values: Tensor) -> tuple[float, float]:
    """The 2.5 and the 97.5 percentile of the means of resamples."""
    n, generator = len(values), stream(0, "bootstrap")
    at_once = max(1, _LARGEST // n)  # of many images, all resamples together would not fit in memory
    means = torch.cat(
        [
            values[torch.randint(n, (min(at_once, _RESAMPLES - start), n), generator=generator, device="cpu")].mean(1)
            for start in range(0, _RESAMPLES, at_once)
        ]
    )
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
