"""`PerceptualDistance`: how far two images are apart, from the features of a convolutional network.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (arXiv:1801.03924), Eq. 1. With
`f_l(x)` the features of layer l, of unit length in the channels, and `w_l` learned weights of the channels:

    d(x, y) = sum over layers l of the mean over places of  w_l . (f_l(x) - f_l(y))^2

The networks are AlexNet and VGG-16, as in that paper, and their shift-tolerant forms of Ghildyal and Liu
(arXiv:2207.13686), in which a blur follows what makes the image smaller. They are written here because the packages
that have them import torchvision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from .base import Picture
from .pixels import rgb, to_unit

Net = Literal["alex", "vgg"]

_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_EPSILON = 1e-10
_VGG = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
SMALLEST: dict[Net, int] = {"alex": 32, "vgg": 32}
"""The shorter side of the smallest image, in pixels."""


class Blur(nn.Module):
    """A blur that keeps every second pixel.

    Args:
        channels: Number of channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("filt", torch.empty(channels, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, about H / 2, about W / 2)."""
        return conv2d(pad(x, (2, 2, 2, 2), mode="reflect"), self.filt, stride=2, groups=x.shape[1])  # type: ignore[arg-type]


class PerceptualDistance(nn.Module):
    """The distance, and the features that it is computed from.

    Args:
        net: `"alex"` or `"vgg"`.
        shift_tolerant: Whether the network is the one with blurs.
    """

    def __init__(self, net: Net, *, shift_tolerant: bool) -> None:
        super().__init__()
        slices = {"alex": _alex, "vgg": _vgg}[net](shift_tolerant)
        self.slices = nn.ModuleList(slices)
        widths = [next(m for m in reversed(part) if isinstance(m, nn.Conv2d)).out_channels for part in slices]
        self.heads = nn.ParameterList([nn.Parameter(torch.empty(1, width, 1, 1)) for width in widths])
        self.smallest = SMALLEST[net]
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The distance (N,) between images (N, 3, H, W) in [-1, 1].

        Raises:
            ValueError: If the shapes differ, or the images are too small.
        """
        if x.shape != y.shape:
            raise ValueError(f"The images must have the same size, got {tuple(x.shape)} and {tuple(y.shape)}.")
        pairs = zip(self.features(x), self.features(y), self.heads, strict=True)
        layers = [(head * (_unit(a) - _unit(b)) ** 2).sum(1).mean((1, 2)) for a, b, head in pairs]
        return torch.stack(layers).sum(0)

    def features(self, x: Tensor) -> list[Tensor]:
        """The features of each of five layers, (N, C, h, w), of images (N, 3, H, W) in [-1, 1].

        Raises:
            ValueError: If the images are too small.
        """
        if min(x.shape[2:]) < self.smallest:
            height, width = x.shape[2:]
            raise ValueError(
                f"The images must be at least {self.smallest} pixels high and wide, got {width} x {height}."
            )
        x = (x - x.new_tensor(_SHIFT).view(3, 1, 1)) / x.new_tensor(_SCALE).view(3, 1, 1)
        found = []
        for part in self.slices:
            x = part(x)
            found.append(x)
        return found

    def load(self, network: Mapping[str, Tensor], heads: Mapping[str, Tensor]) -> PerceptualDistance:
        """Read the weights.

        Args:
            network: Of the convolutions and blurs, in their order; their names do not count.
            heads: The weights of the channels, in the order of their names: `lin0.model.1.weight` and so on.

        Raises:
            ValueError: If they do not fit the network.
        """
        own = [tensor for name, tensor in self.state_dict().items() if not name.startswith("heads.")]
        own += [head.data for head in self.heads]
        given = [*network.values(), *(heads[name] for name in sorted(heads))]
        if [tuple(t.shape) for t in own] != [tuple(t.shape) for t in given]:
            raise ValueError("The weights are not those of this network: its layers have other sizes.")
        for tensor, value in zip(own, given, strict=True):
            tensor.copy_(value)
        return self


@torch.no_grad()
def distances_to_base(
    network: PerceptualDistance, pictures: Sequence[Picture], device: str | torch.device
) -> list[float]:
    """How far each image is from the base model's.

    Raises:
        ValueError: If there are no images, one is not as large as the base model's, or one is too small.
    """
    images, bases = rgb([p.image for p in pictures]), rgb([p.base for p in pictures])
    pairs = [(2 * to_unit(image) - 1, 2 * to_unit(base) - 1) for image, base in zip(images, bases, strict=True)]
    return [network(x[None].to(device), y[None].to(device)).item() for x, y in pairs]


def _unit(features: Tensor) -> Tensor:
    """Features of unit length in the channels."""
    return features / (features.pow(2).sum(1, keepdim=True).sqrt() + _EPSILON)


def _alex(shift_tolerant: bool) -> list[nn.Sequential]:
    """AlexNet's convolutions, from one ReLU to the next."""
    if shift_tolerant:
        first: list[nn.Module] = [nn.Conv2d(3, 64, 11, stride=1, padding=2), Blur(64)]
        pools: list[list[nn.Module]] = [[nn.MaxPool2d(3, 1), Blur(64)], [nn.MaxPool2d(3, 1), Blur(192)]]
    else:
        first, pools = [nn.Conv2d(3, 64, 11, stride=4, padding=2)], [[nn.MaxPool2d(3, 2)], [nn.MaxPool2d(3, 2)]]
    return [
        nn.Sequential(*first, nn.ReLU()),
        nn.Sequential(*pools[0], nn.Conv2d(64, 192, 5, padding=2), nn.ReLU()),
        nn.Sequential(*pools[1], nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    ]


def _vgg(shift_tolerant: bool) -> list[nn.Sequential]:
    """VGG-16's convolutions, from one pooling to the next."""
    slices, before = [], 3
    for number, widths in enumerate(_VGG):
        layers: list[nn.Module] = []
        if number:
            layers += [nn.MaxPool2d(2, 1), Blur(before)] if shift_tolerant else [nn.MaxPool2d(2)]
        for width in widths:
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            before = width
        slices.append(nn.Sequential(*layers))
    return slices
