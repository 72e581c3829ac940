"""The judges of UnlearnCanvas: a ViT-L/16 for styles and one for objects, from the publisher's weights.

The weights are timm's `vit_large_patch16_224.augreg_in21k` with another head. timm is not needed: `ViT` has its names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from PIL.Image import Resampling
from torch import Tensor, nn

from diffusers_esd.evaluation.judges.base import Finding, Judge, Kind, Picture
from diffusers_esd.evaluation.judges.pixels import rgb, to_unit
from diffusers_esd.evaluation.judges.weights import Weights, load_tensors
from diffusers_esd.evaluation.prompt_sets import CANVAS_OBJECTS, CANVAS_STYLES

_SIDE = 224
_HEAD = 64  # width of an attention head

FILES = {
    "style": Weights(
        file="style50.pth",
        publisher="UnlearnCanvas: cls_model of https://huggingface.co/NormalUhr/UnlearnCanvas-ckpts, or in the Google "
        "Drive of https://github.com/OPTML-Group/UnlearnCanvas",
        licence="MIT, as the repository's badge says",
        argument="--style-weights",
    ),
    "subject": Weights(
        file="style50_cls.pth",
        publisher="UnlearnCanvas: cls_model in the Google Drive of https://github.com/OPTML-Group/UnlearnCanvas",
        licence="MIT, as the repository's badge says",
        argument="--object-weights",
    ),
}
"""The publisher's files, by the question that they answer."""


class ViT(nn.Module):
    """A vision transformer whose first token is classified. Its parameters have timm's names.

    Args:
        width: Numbers of a token, a multiple of 64.
        depth: Blocks.
        patch: Side of a patch in pixels.
        side: Side of an image in pixels.
        classes: Numbers that come out.
    """

    def __init__(self, width: int, depth: int, patch: int, side: int, classes: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (side // patch) ** 2, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
        self.blocks = nn.ModuleList([_Block(width) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, 3, side, side) in [-1, 1]."""
        patches = self.patch_embed["proj"](images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], 1) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens)[:, 0])

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> ViT:
        """The transformer that fits some tensors, with them."""
        projection = tensors["patch_embed.proj.weight"]
        width, patch = projection.shape[0], projection.shape[-1]
        depth = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
        side = patch * round((tensors["pos_embed"].shape[1] - 1) ** 0.5)
        network = cls(width, depth, patch, side, len(tensors["head.bias"]))
        network.load_state_dict(tensors)
        return network.eval()


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, tokens: Tensor) -> Tensor:
        n, length, width = tokens.shape
        heads = (n, length, 3, width // _HEAD, _HEAD)
        query, key, value = self.attn["qkv"](self.norm1(tokens)).view(heads).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(tokens.shape)
        tokens = tokens + self.attn["proj"](attended)
        return tokens + self.mlp["fc2"](nn.functional.gelu(self.mlp["fc1"](self.norm2(tokens))))


class CanvasJudge(Judge):
    """Which style, or which object, an image has.

    Args:
        question: `"style"` or `"subject"`, the object.
        weights: Path of the weights; `None` means to look for them.
        device: Where it is computed.

    Raises:
        MissingWeightsError: If the weights are nowhere.
        ValueError: If they are damaged, or are not those of this question.
    """

    kind: ClassVar[Kind] = "recognises"

    def __init__(
        self, question: Literal["style", "subject"], *, weights: Path | None = None, device: str = "cpu"
    ) -> None:
        own = FILES[question]
        path = own.find(weights)
        stored = load_tensors(path)
        tensors = stored.get("model_state_dict", stored)
        self.name, self.question = f"unlearncanvas_{question}", question
        self._labels = CANVAS_STYLES if question == "style" else CANVAS_OBJECTS
        if len(tensors.get("head.bias", ())) != len(self._labels):
            raise ValueError(
                f"{path} is not the {question} classifier of UnlearnCanvas: it must tell {len(self._labels)} classes "
                f"apart, and it tells {len(tensors.get('head.bias', ()))}."
            )
        self._network, self._device = ViT.of(tensors).to(device), device
        self._record = {"weights": own.record(path)}

    def record(self) -> dict[str, Any]:
        """The weights."""
        return self._record

    def knows(self, label: str) -> bool:
        """Whether a label is one of the classifier's."""
        return label in self._labels

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Picture]) -> list[tuple[Finding, ...]]:
        """The most probable label of each image.

        Raises:
            ValueError: If there are no images.
        """
        squares = [image.resize((_SIDE, _SIDE), Resampling.BILINEAR) for image in rgb([p.image for p in pictures])]
        images = torch.stack([2 * to_unit(square) - 1 for square in squares]).to(self._device)
        best = self._network(images).softmax(1).max(1)
        return [
            (Finding(self._labels[number], score),)
            for number, score in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
