"""Measures of two sets of images: the Frechet distance of their features, and FID.

The distance is called FID only with FID's own Inception network and weights; with other features it is
`frechet_distance[name of the features]`. `frechet.py` has the formula.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from PIL.Image import Image
from torch import Tensor

from ..arguments import integer_from
from .extras import import_extra, package_record
from .frechet import Moments, frechet_distance
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
    def beside(self, reference: Iterable[Image]) -> Callable[[Iterable[Image]], float]:
        """The function that measures sets of images beside a reference, which is looked at once.

        Args:
            reference: The images to compare with: real ones, or the base model's. They are taken one after the other.

        Raises:
            ValueError: If a set has too few images.
        """

    def __call__(self, reference: Iterable[Image], generated: Iterable[Image]) -> float:
        """The number.

        Args:
            reference: The images to compare with.
            generated: The images to measure.

        Raises:
            ValueError: If a set has too few images.
        """
        return self.beside(reference)(generated)


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

    def beside(self, reference: Iterable[Image]) -> Callable[[Iterable[Image]], float]:
        """The function that gives the distance to a reference, 0 or more.

        Raises:
            ValueError: If a set has fewer than two images.
        """
        moments = self.moments(reference)
        return lambda generated: frechet_distance(moments, self.moments(generated))


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
        pixels = [to_bytes(image) for image in rgb(images)]
        # The network resizes by itself; images of several sizes need a call each.
        one_size = len({tensor.shape for tensor in pixels}) == 1
        batches = [torch.stack(pixels)] if one_size else [tensor[None] for tensor in pixels]
        return torch.cat([self._network(batch.to(self._device))[0] for batch in batches])


def _batches(images: Iterable[Image], size: int) -> Iterator[list[Image]]:
    iterator = iter(images)
    while batch := list(islice(iterator, size)):
        yield batch
