"""The human study of the ESD paper (Sec. 5.1.2): a page that collects ratings, and what they say."""

from .chart import figure, markdown
from .key import Candidate, Key
from .mean import Mean, means
from .page import Study, make_study
from .ratings import Ratings, read_ratings

__all__ = [
    "Candidate",
    "Key",
    "Mean",
    "Ratings",
    "Study",
    "figure",
    "make_study",
    "markdown",
    "means",
    "read_ratings",
]
