"""The judge: which object and which style is in an image.

A small convolutional network with two heads, trained by `train_judge.py` on rendered emoji only,
never on generated images.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .preset import SMALL, Preset, PresetName, preset_named
from .vocabulary import STYLES


class Probabilities(NamedTuple):
    """Probabilities for N images: `objects` (N, 40; or 200 of `large`) and `styles` (N, 5); rows sum to 1."""

    objects: Tensor
    styles: Tensor


class Judge(nn.Module):
    """Object and style probabilities of 64 px pictures.

    Columns are in the order of `vocabulary.objects` and `STYLES`. Without a preset, it is the judge of `small`.
    """

    def __init__(self, preset: Preset = SMALL) -> None:
        super().__init__()
        self.vocabulary = preset.vocabulary
        widths = (3, *preset.judge_widths)
        blocks: list[nn.Module] = []
        for narrow, wide in pairwise(widths):
            blocks += [nn.Conv2d(narrow, wide, 3, stride=2, padding=1), nn.GroupNorm(8, wide), nn.SiLU()]
            blocks += [nn.Conv2d(wide, wide, 3, padding=1), nn.GroupNorm(8, wide), nn.SiLU()]
        self.body = nn.Sequential(*blocks)
        self.objects = nn.Linear(widths[-1], len(self.vocabulary.objects))
        # Style is texture: edges, shading, palette. Early layers represent it best; late layers represent objects.
        self.styles = nn.Sequential(nn.Linear(widths[-1] + widths[2], 64), nn.SiLU(), nn.Linear(64, len(STYLES)))

    def logits(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Unnormalised scores of images (N, 3, 64, 64) in [-1, 1]."""
        early = self.body[:12](pictures)
        late = self.body[12:](early).mean((2, 3))
        return self.objects(late), self.styles(torch.cat([late, early.mean((2, 3))], dim=1))

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Probabilities:
        """Probabilities for images (N, 3, 64, 64) in [-1, 1]."""
        objects, styles = self.logits(pictures)
        return Probabilities(objects.softmax(1), styles.softmax(1))

    @classmethod
    def from_pretrained(cls, folder: Path | None = None, preset: PresetName = "small") -> Judge:
        """The trained judge, float32, in evaluation mode.

        Args:
            folder: Folder of the weights; the preset's own if not given.
            preset: Which objects the judge knows.

        Raises:
            FileNotFoundError: The preset was not trained.
        """
        size = preset_named(preset)
        path = size.file("judge.safetensors") if folder is None else folder / "judge.safetensors"
        judge = cls(size)
        judge.load_state_dict({k: v.float() for k, v in load_file(path).items()})
        return judge.eval().requires_grad_(False)
