"""Distances between two sets of images: the Frechet distance of their features, and FID.

With features of mean m and covariance S in each set (Heusel et al., arXiv:1706.08500, Eq. 6):

    d = |m_1 - m_2|^2 + tr(S_1) + tr(S_2) - 2 tr((S_1 S_2)^(1/2))

`S_1 S_2` has the eigenvalues of the symmetric `R S_2 R` with `R = S_1^(1/2)`, so two symmetric eigenvalue problems in
float64 give the last term, and no general square root of a matrix is needed.

The distance is called FID only with FID's own Inception network and weights; with other features it is
`frechet_distance[name of the features]`. Sets with fewer images than a feature has numbers have covariances without
full rank. The formula still holds, but such a value depends on the number of images, and other programs differ from it
in the fifth digit after the point, because they add a small number to the diagonal.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from PIL.Image import Image
from torch import Tensor

from ..arguments import integer_from
from .extras import import_extra, package_record
from .judges.pixels import rgb, to_bytes
from .judges.weights import Weights, load_tensors, sha256

_BATCH = integer_from(1)
_BATCH_SIZE = 32
_INCEPTION = Weights(
    file="weights-inception-2015-12-05-6726825d.pth",
    publisher="the torch-fidelity project, converted from TensorFlow's Inception of 2015-12-05",
    licence="Apache-2.0",
    sha256="6726825d",
    url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
)


class Extractor(Protocol):
    """Turns images into features.

    Attributes:
        name: What the features are called.
    """

    name: str

    def __call__(self, images: Sequence[Image]) -> Tensor:
        """The features (N, D) of a batch of images."""
        ...

    def record(self) -> dict[str, Any]:
        """Everything that the features depend on, as JSON types."""
        ...


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


class SetMeasure(ABC):
    """A number for two sets of images.

    Attributes:
        name: What it is called in a report.
        better: Whether lower or higher is better.
    """

    name: str
    better: Literal["higher", "lower"] = "lower"

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """Everything that the number depends on besides the images, as JSON types."""

    @abstractmethod
    def __call__(self, reference: Iterable[Image], generated: Iterable[Image]) -> float:
        """The number.

        Args:
            reference: The images to compare with: real ones, or the base model's. They are taken one after the other.
            generated: The images to measure.

        Raises:
            ValueError: If a set has too few images.
        """


class FrechetDistance(SetMeasure):
    """The Frechet distance of the features of two sets.

    Args:
        extractor: Turns images into features: a `CLIP`, an `STFeatures`, or your own.
        batch_size: Images at a time.
    """

    def __init__(self, extractor: Extractor, *, batch_size: int = _BATCH_SIZE) -> None:
        self._extractor, self._batch_size = extractor, _BATCH("batch_size", batch_size)
        self.name = f"frechet_distance[{extractor.name}]"

    def record(self) -> dict[str, Any]:
        """The features."""
        return {"extractor": self._extractor.name, **self._extractor.record()}

    def moments(self, images: Iterable[Image]) -> Moments:
        """Mean and covariance of the features of a set, for `frechet_distance`.

        Raises:
            ValueError: If there are no images.
        """
        moments = Moments()
        for batch in _batches(images, self._batch_size):
            moments.add(self._extractor(batch))
        if not moments.n:
            raise ValueError("There is no image to measure; give at least two.")
        return moments

    def __call__(self, reference: Iterable[Image], generated: Iterable[Image]) -> float:
        """The distance, 0 or more.

        Raises:
            ValueError: If a set has fewer than two images.
        """
        return frechet_distance(self.moments(reference), self.moments(generated))


class FID(FrechetDistance):
    """The Frechet Inception Distance, with the network and the weights of the original program, through torch-fidelity.

    With other weights it is not called FID.

    Args:
        weights: Path of the weights; `None` means to look for them.
        allow_download: Whether they may be downloaded.
        batch_size: Images at a time.
        device: Where the features are computed.

    Raises:
        MissingWeightsError: If the weights are nowhere.
        ImportError: If torch-fidelity is missing.
        ValueError: If the weights are damaged.
    """

    def __init__(
        self,
        *,
        weights: str | Path | None = None,
        allow_download: bool = False,
        batch_size: int = _BATCH_SIZE,
        device: str | torch.device = "cpu",
    ) -> None:
        path = _INCEPTION.find(weights, allow_download=allow_download)
        super().__init__(_Inception(path, device), batch_size=batch_size)
        if _INCEPTION.is_own(path):
            self.name = "fid"


class _Inception:
    """FID's Inception network: 2048 features."""

    def __init__(self, path: Path, device: str | torch.device) -> None:
        load_tensors(path)  # torch-fidelity itself would run code in the file
        package = import_extra("torch_fidelity", "fid")
        self._network = package.FeatureExtractorInceptionV3("inception", ["2048"], str(path)).to(device)
        self._record = {**package_record("torch-fidelity"), "weights": _INCEPTION.record(path)}
        self._device, self.name = device, f"inception-{sha256(path)[:8]}"

    def record(self) -> dict[str, Any]:
        return self._record

    @torch.no_grad()
    def __call__(self, images: Sequence[Image]) -> Tensor:
        # The network resizes by itself, each size in a call of its own.
        return torch.cat([self._network(to_bytes(image)[None].to(self._device))[0] for image in rgb(images)])


def _batches(images: Iterable[Image], size: int) -> Iterator[list[Image]]:
    iterator = iter(images)
    while batch := list(islice(iterator, size)):
        yield batch
