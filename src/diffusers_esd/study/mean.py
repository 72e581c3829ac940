"""`means`: the mean rating of each condition, with an interval.

The interval is a percentile bootstrap over participants x pictures: both are drawn again with replacement, apart from
each other, and the mean of the drawn participants' ratings of the drawn pictures is taken (Owen, "The pigeonhole
bootstrap", 2007). So it says how far the mean may be from that of other participants and other pictures of the same
artists. Ratings of one picture, or by one participant, are not treated as independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from random import Random

from .folder import same_spelling
from .ratings import Ratings

DRAWS = 2000
LEVEL = 0.95
# The paper's Sec. 5.1.2, by several names of the same condition.
_PUBLISHED = {
    "original": 3.85,
    "similar artist": 3.16,
    **dict.fromkeys(("base", "base model", "sd", "stable diffusion"), 3.21),
    "esd x": 1.12,
    "sld": 2.00,
    "negative prompt": 2.22,
}


@dataclass(frozen=True)
class Mean:
    """The ratings of one condition.

    Attributes:
        condition: Its name.
        mean: Mean rating, 1 to 5.
        interval: Bounds of its 95 % interval; `None` if there is only one participant or picture.
        participants: How many participants rated it.
        pictures: How many candidates it has.
        published: The paper's mean of the condition of this name; `None` if there is none.
    """

    condition: str
    mean: float
    interval: tuple[float, float] | None
    participants: int
    pictures: int
    published: float | None

    @property
    def ratings(self) -> int:
        """How many ratings it has."""
        return self.participants * self.pictures


def means(ratings: Ratings) -> tuple[Mean, ...]:
    """Mean and interval of each condition, the highest mean first.

    The same ratings always give the same intervals.
    """
    results = []
    for condition, rows in ratings.by_condition().items():
        mean = sum(map(sum, rows)) / (len(rows) * len(rows[0]))
        published = _PUBLISHED.get(same_spelling(condition))
        results.append(Mean(condition, mean, interval(rows), len(rows), len(rows[0]), published))
    return tuple(sorted(results, key=lambda each: (-each.mean, each.condition)))


def interval(rows: Sequence[Sequence[float]], draws: int = DRAWS) -> tuple[float, float] | None:
    """The 95 % interval of the mean of ratings.

    Args:
        rows: A row for each participant, with ratings of the same pictures in the same order.
        draws: How often participants and pictures are drawn again.

    Returns:
        Lower and upper bound; `None` for one participant or one picture, which cannot show how much others differ.
    """
    participants, pictures = len(rows), len(rows[0])
    if participants < 2 or pictures < 2:
        return None
    chance = Random(0)
    drawn = []
    for _ in range(draws):
        some = itemgetter(*chance.choices(range(pictures), k=pictures))
        total = sum(sum(some(row)) for row in chance.choices(rows, k=participants))
        drawn.append(total / (participants * pictures))
    drawn.sort()
    outside = (1 - LEVEL) / 2
    return drawn[round(outside * (draws - 1))], drawn[round((1 - outside) * (draws - 1))]
