"""The Frechet distance of two sets of features, and the moments that it is computed from.

With features of mean m and covariance S in each set (Heusel et al., arXiv:1706.08500, Eq. 6):

    d = |m_1 - m_2|^2 + tr(S_1) + tr(S_2) - 2 tr((S_1 S_2)^(1/2))

`S_1 S_2` has the eigenvalues of the symmetric `R S_2 R` with `R = S_1^(1/2)`, so two symmetric eigenvalue problems in
float64 give the last term, and no general square root of a matrix is needed.

Sets with fewer images than a feature has numbers have covariances without full rank. The formula still holds, but such
a value depends on the number of images, and other programs differ from it in the fifth digit after the point, because
they add a small number to the diagonal.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Moments:
    """Mean and covariance of features, which come in batches. Everything is summed in float64."""

    def __init__(self) -> None:
        self.n = 0
        self._mean = self._scatter = torch.empty(0, dtype=torch.float64)

    def add(self, features: Tensor) -> Moments:
        """Add a batch.

        Args:
            features: (N, D).

        Raises:
            ValueError: If it is not a matrix, has another number of features, or a number that is not finite.
        """
        if features.ndim != 2 or (self.n and features.shape[1] != len(self._mean)):
            expected = f"(N, {len(self._mean)})" if self.n else "(N, D)"
            raise ValueError(f"`features` must have the shape {expected}, got {tuple(features.shape)}.")
        if not features.isfinite().all():
            raise ValueError("`features` has numbers that are not finite.")
        if not len(features):
            return self
        batch = features.detach().double().cpu()
        mean, size = batch.mean(0), len(batch)
        centred = batch - mean
        scatter = centred.T @ centred
        if self.n:
            # Chan et al., "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979.
            shift, total = mean - self._mean, self.n + size
            scatter += self._scatter + torch.outer(shift, shift) * (self.n * size / total)
            mean = self._mean + shift * (size / total)
        self.n, self._mean, self._scatter = self.n + size, mean, scatter
        return self

    @property
    def mean(self) -> Tensor:
        """The mean (D,)."""
        return self._mean

    @property
    def covariance(self) -> Tensor:
        """The covariance (D, D), with n - 1 in the denominator.

        Raises:
            ValueError: If there are fewer than two images.
        """
        if self.n < 2:
            raise ValueError(f"A covariance needs two images at least, got {self.n}.")
        return self._scatter / (self.n - 1)


def frechet_distance(a: Moments, b: Moments) -> float:
    """The Frechet distance of two sets of features, 0 or more.

    Raises:
        ValueError: If a set has fewer than two images, or their numbers of features differ.
    """
    s_a, s_b = a.covariance, b.covariance
    if s_a.shape != s_b.shape:
        raise ValueError(f"The sets must have the same number of features, got {len(s_a)} and {len(s_b)}.")
    values, vectors = torch.linalg.eigh(s_a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    mixed = torch.linalg.eigvalsh(root @ s_b @ root).clamp(min=0).sqrt().sum()
    distance = (a.mean - b.mean).square().sum() + s_a.trace() + s_b.trace() - 2 * mixed
    return max(distance.item(), 0.0)  # rounding can give a little less than 0 for equal sets
