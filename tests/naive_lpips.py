"""LPIPS on AlexNet, written out place by place, and random weights for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

ALEX = {"features.0": (64, 3, 11), "features.3": (192, 64, 5), "features.6": (384, 192, 3), "features.8": (256, 384, 3)}
ALEX |= {"features.10": (256, 256, 3)}
WIDTHS = [64, 192, 384, 256, 256]


def alex_weights(seed: int = 0) -> dict[str, Tensor]:
    """Random weights with the names and shapes of torchvision's AlexNet."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, (wide, deep, side) in ALEX.items():
        weights[f"{name}.weight"] = torch.randn(wide, deep, side, side, generator=generator) / (deep * side**2) ** 0.5
        weights[f"{name}.bias"] = torch.randn(wide, generator=generator) * 0.1
    return weights


def heads(seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {f"lin{i}.model.1.weight": torch.rand(1, w, 1, 1, generator=generator) for i, w in enumerate(WIDTHS)}


def torchvisions_alexnet(weights: dict[str, Tensor]) -> nn.Sequential:
    """`torchvision.models.alexnet().features`, as its source has it, without the last pooling."""
    network = nn.Sequential(
        nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Conv2d(64, 192, kernel_size=5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Conv2d(192, 384, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, kernel_size=3, padding=1),
        nn.ReLU(),
    )
    network.load_state_dict({name.removeprefix("features."): value for name, value in weights.items()})
    return network


@torch.no_grad()
def naive(x: Tensor, y: Tensor, weights: dict[str, Tensor], w: dict[str, Tensor]) -> float:
    """Eq. 1 of the paper, place by place, of two images (3, H, W) in [-1, 1]."""
    total = 0.0
    network = torchvisions_alexnet(weights)
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    a, b = (((image.permute(1, 2, 0) - shift) / scale).permute(2, 0, 1)[None] for image in (x, y))
    layers = iter(w.values())
    for layer in network:
        a, b = layer(a), layer(b)
        if isinstance(layer, nn.ReLU):
            weight = next(layers).flatten()
            places = [(i, j) for i in range(a.shape[2]) for j in range(a.shape[3])]
            for i, j in places:
                u, v = a[0, :, i, j], b[0, :, i, j]
                total += (weight * (u / u.norm() - v / v.norm()) ** 2).sum().item() / len(places)
    return total
