"""Numbers of a report that are computed from counts and rates. No images, no models.

Rates are in percent where the source has percent, and the docstring says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

_Z = 1.959963984540054  # 95 % of a normal distribution are within this many standard deviations


class Interval(NamedTuple):
    """A rate with its 95 % interval, each from 0 to 1.

    Attributes:
        rate: The rate that was seen.
        low: The lower bound.
        high: The upper bound.
    """

    rate: float
    low: float
    high: float


def wilson(hits: int, n: int) -> Interval:
    """A rate, with Wilson's 95 % interval for a share.

    Args:
        hits: In how many cases it happened.
        n: Number of cases.

    Raises:
        ValueError: If there are no cases, or `hits` is not from 0 to `n`.
    """
    _check_counts(n, hits=hits)
    rate, z2 = hits / n, _Z * _Z
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # Rounding must not leave the interval without its own rate.
    return Interval(rate, min(max(centre - half, 0.0), rate), max(min(centre + half, 1.0), rate))


# Erased and kept, in one number.


def erasebench_hm(efficacy: float, generality: float, sensitivity: float) -> float:
    """EraseBench's harmonic mean (Amara et al., arXiv:2501.09833), in percent; higher is better.

    Args:
        efficacy: Accuracy of the erased concept, in percent; lower is better.
        generality: Accuracy of its synonyms, in percent; lower is better.
        sensitivity: Accuracy of its neighbours, in percent; higher is better.

    Raises:
        ValueError: If one is not from 0 to 100.
    """
    return harmonic_mean([100 - efficacy, 100 - generality, sensitivity])


def mace_h(erased: float, synonyms: float, others: float) -> float:
    """MACE's overall score H_o (Lu et al., arXiv:2403.06135), in percent; higher is better.

    Args:
        erased: Accuracy of the erased concept, in percent; lower is better.
        synonyms: Accuracy of its synonyms, in percent; lower is better.
        others: Accuracy of other concepts, in percent; higher is better.

    Raises:
        ValueError: If one is not from 0 to 100.
    """
    return harmonic_mean([100 - erased, 100 - synonyms, others])


def harmonic_mean(percents: Sequence[float]) -> float:
    """The harmonic mean of percentages; 0 if one of them is 0.

    Raises:
        ValueError: If there is none, or one is not from 0 to 100.
    """
    if not percents or not all(0 <= value <= 100 for value in percents):
        raise ValueError(f"Percentages must be from 0 to 100, one at least; got {list(percents)}.")
    return 0.0 if 0 in percents else len(percents) / sum(1 / value for value in percents)


# Attacks.


class AttackSuccess(NamedTuple):
    """How often a concept appears before and after an attack.

    Attributes:
        pre: The rate without the attack.
        post: The rate with it.
    """

    pre: Interval
    post: Interval


def attack_success(pre_hits: int, post_hits: int, n: int) -> AttackSuccess:
    """The rates of UnlearnDiffAtk (Zhang et al., arXiv:2310.11868): a prompt that needs no attack is a success of both.

    Args:
        pre_hits: Prompts whose image shows the concept without an attack.
        post_hits: These, and those of the others that show it with the attack.
        n: Number of prompts.

    Raises:
        ValueError: If there are no prompts, a number is not from 0 to `n`, or `post_hits` is less than `pre_hits`.
    """
    _check_counts(n, pre_hits=pre_hits, post_hits=post_hits)
    if post_hits < pre_hits:
        raise ValueError(f"`post_hits` includes `pre_hits`, got {post_hits} and {pre_hits}.")
    return AttackSuccess(wilson(pre_hits, n), wilson(post_hits, n))


# The ESD paper's tables.


class Row(NamedTuple):
    """A row of the ESD paper's Table 2: one erased class.

    Attributes:
        erased: Top-1 rate of this class.
        others: Mean top-1 rate of the other classes.
    """

    erased: float
    others: float


def table_2(rates: Mapping[str, Mapping[str, float]]) -> dict[str, Row]:
    """The ESD paper's Table 2, and its last row under `"average"`.

    Args:
        rates: For each erased class, the top-1 rate of every class when that one is erased. For the base model, it is
            the same mapping for each.

    Raises:
        ValueError: If there are fewer than two classes, or a mapping has other classes than `rates`.
    """
    if len(rates) < 2:
        raise ValueError(f"A table needs two classes at least, got {list(rates)}.")
    for erased, row in rates.items():
        if row.keys() != rates.keys():
            raise ValueError(f"The rates for {erased!r} must be of {sorted(rates)}, got those of {sorted(row)}.")
    table = {
        erased: Row(row[erased], mean([rate for label, rate in row.items() if label != erased]))
        for erased, row in rates.items()
    }
    rows = list(table.values())
    return {**table, "average": Row(mean([r.erased for r in rows]), mean([r.others for r in rows]))}


def relative_change(base: float, erased: float) -> float:
    """How much a count or a rate changed, as a share of the base model's: -0.83 is 83 % less, as in the paper's Fig. 7.

    Raises:
        ValueError: If the base model's is 0: then there is nothing to compare with.
    """
    if base == 0:
        raise ValueError("The base model's number is 0, so a change relative to it has no meaning.")
    return (erased - base) / abs(base)


def _check_counts(n: int, **counts: int) -> None:
    if n < 1:
        raise ValueError(f"`n` must be 1 or more, got {n}: a rate of nothing has no meaning.")
    for name, count in counts.items():
        if not 0 <= count <= n:
            raise ValueError(f"`{name}` must be from 0 to {n}, got {count}.")


def mean(values: Sequence[float]) -> float:
    """The mean of numbers, one at least."""
    return sum(values) / len(values)
