"""`LPIPS`: how far an image is from the base model's, by the Learned Perceptual Image Patch Similarity, version 0.1.

Zhang et al. (arXiv:1801.03924). The backbone's weights are torchvision's, which are downloaded; those of the channels
come with torchmetrics. torchvision is not needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from ...arguments import one_of
from ..extras import folder_of, package_record
from .base import Finding, Judge, Kind, Picture
from .perceptual import Net, PerceptualDistance, distances_to_base
from .weights import Weights, load_tensors, sha256

_FILES = {"alex": ("alexnet-owt-7be5be79.pth", "7be5be79"), "vgg": ("vgg16-397923af.pth", "397923af")}


class LPIPS(Judge):
    """The distance to the base model's image: 0 if they are equal.

    It is called LPIPS only with the published backbone. With other weights its name has the first digits of theirs.

    Args:
        net: `"alex"` or `"vgg"`.
        weights: Path of the backbone's weights; `None` means to look for them.
        device: Where it is computed.
        allow_download: Whether they may be downloaded.

    Raises:
        ImportError: If torchmetrics is missing.
        MissingWeightsError: If the weights are nowhere.
        ValueError: If the weights are another network's.
    """

    kind: ClassVar[Kind] = "scores"

    def __init__(
        self,
        net: Net = "alex",
        *,
        weights: str | Path | None = None,
        device: str | torch.device = "cpu",
        allow_download: bool = False,
    ) -> None:
        file, digits = _FILES[one_of(Net)("net", net)]
        own = Weights(
            file=file,
            publisher="the torchvision project",
            licence="BSD-3-Clause; ImageNet, which they learned from, has terms of its own",
            sha256=digits,
            url=f"https://download.pytorch.org/models/{file}",
        )
        path = own.find(weights, allow_download=allow_download)
        heads = folder_of("torchmetrics", "lpips") / "functional" / "image" / "lpips_models" / f"{net}.pth"
        self.name = f"lpips_{net}" if own.is_own(path) else f"distance_{net}_{sha256(path)[:8]}"
        self._record = {
            **package_record("torchmetrics"),
            "net": net,
            "weights": own.record(path),
            "heads": {"file": heads.name, "sha256": sha256(heads)},
        }
        backbone = {name: value for name, value in load_tensors(path).items() if name.startswith("features.")}
        self._network = PerceptualDistance(net, shift_tolerant=False).load(backbone, load_tensors(heads)).to(device)
        self._device = device

    def record(self) -> dict[str, Any]:
        """Backbone, weights of the channels, and where those are from."""
        return {**self._record, "scale": "distance to the base model's image"}

    def __call__(self, pictures: Sequence[Picture]) -> list[tuple[Finding, ...]]:
        """The distance of each image.

        Raises:
            ValueError: If there are no images, one is not as large as the base model's, or one is too small.
        """
        return [(Finding("lpips", d),) for d in distances_to_base(self._network, pictures, self._device)]
