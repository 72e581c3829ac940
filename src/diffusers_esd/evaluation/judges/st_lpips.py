"""`STLPIPS`: how far an image is from the base model's, by shift-tolerant LPIPS. Its weights come with a package.

Ghildyal and Liu, "Shift-tolerant Perceptual Similarity Metric" (arXiv:2207.13686). The package `stlpips-pytorch` has
the weights of AlexNet and VGG-16 (BSD-2-Clause). It is not imported, because that needs torchvision and IPython; only
its files are read. The value is another than that of LPIPS.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL.Image import Image
from torch import Tensor

from ...arguments import one_of
from ..extras import folder_of, package_record
from .base import Finding, Judge, Kind, Picture
from .perceptual import Net, PerceptualDistance, distances_to_base
from .pixels import rgb, to_unit
from .weights import Weights, load_tensors

_SHA256: dict[str, str] = {
    "alex": "b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee",
    "vgg": "44597da68f49c1837c100ff52299050f274d102eb102e5837178c79be6f0e250",
}


class STLPIPS(Judge):
    """The shift-tolerant distance to the base model's image: 0 if they are equal.

    Args:
        net: `"alex"` or `"vgg"`.
        weights: Path of the weights; `None` means the package's.
        device: Where it is computed.

    Raises:
        ImportError: If the package is missing.
        MissingWeightsError: If there is no file at `weights`.
        ValueError: If the weights are another network's.
    """

    kind: ClassVar[Kind] = "scores"

    def __init__(
        self, net: Net = "alex", *, weights: str | Path | None = None, device: str | torch.device = "cpu"
    ) -> None:
        self.name = f"st_lpips_{one_of(Net)('net', net)}"
        self._network, self._record, self._device = *st_network(net, weights), device
        self._network.to(device)

    def record(self) -> dict[str, Any]:
        """Package and weights."""
        return {**self._record, "scale": "distance to the base model's image"}

    def __call__(self, pictures: Sequence[Picture]) -> list[tuple[Finding, ...]]:
        """The distance of each image.

        Raises:
            ValueError: If there are no images, one is not as large as the base model's, or one is too small.
        """
        return [(Finding("st_lpips", d),) for d in distances_to_base(self._network, pictures, self._device)]


class STFeatures:
    """Features of shift-tolerant VGG-16 or AlexNet, for a `FrechetDistance`: means over the places of its last layer.

    Args:
        net: `"alex"` or `"vgg"`.
        weights: Path of the weights; `None` means the package's.
        device: Where they are computed.
        side: What images are resized to, in pixels.
    """

    def __init__(
        self,
        net: Net = "vgg",
        *,
        weights: str | Path | None = None,
        device: str | torch.device = "cpu",
        side: int = 224,
    ) -> None:
        self.name = f"st-{one_of(Net)('net', net)}"
        self._network, self._record, self._device, self._side = *st_network(net, weights), device, side
        self._network.to(device)

    def record(self) -> dict[str, Any]:
        """Package, weights and size."""
        return {**self._record, "side": self._side}

    @torch.no_grad()
    def __call__(self, images: Sequence[Image]) -> Tensor:
        """The features (N, C) of images."""
        resized = torch.stack([to_unit(image.resize((self._side, self._side))) for image in rgb(images)])
        return self._network.features(2 * resized.to(self._device) - 1)[-1].mean((2, 3))


def st_network(net: Net, weights: str | Path | None) -> tuple[PerceptualDistance, dict[str, Any]]:
    """The network with its weights, and what a report says of them."""
    own = Weights(
        file=f"{net}_shift_tolerant.pth",
        publisher="the ShiftTolerant-LPIPS project (https://github.com/abhijay9/ShiftTolerant-LPIPS)",
        licence="BSD-2-Clause",
        sha256=_SHA256[net],
    )
    package: dict[str, str] = {}
    if weights is None:
        weights = folder_of("stlpips_pytorch", "st-lpips") / "weights" / "vST0.0" / own.file
        package = package_record("stlpips-pytorch")
    path = own.find(weights)
    tensors = load_tensors(path)
    network = {name: value for name, value in tensors.items() if name.startswith("net.")}
    heads = {name: value for name, value in tensors.items() if name.startswith("lin")}
    module = PerceptualDistance(net, shift_tolerant=True).load(network, heads)
    return module, {**package, "net": net, "weights": own.record(path)}
