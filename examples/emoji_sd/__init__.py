"""emoji_sd: a small real Stable Diffusion, 64 px, that draws forty objects in five emoji styles.

    from emoji_sd import Judge, load, rates

`load()` returns the pipeline, `Judge` classifies objects and styles in images, and `rates` says how often a pipeline
generates what the prompt names. The scripts that made the weights are `data.py`, `train_autoencoder.py`,
`train_diffusion.py` and `train_judge.py`. ATTRIBUTION.md lists the authors of the artwork it learned from.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from .judge import Judge, Probabilities
from .rates import ALL_PAIRS, Rates, draw, rates, some_pairs, unnamed
from .settings import plain, settings
from .vocabulary import CLASSES, OBJECTS, STYLES, class_of, phrase

__all__ = [
    "ALL_PAIRS",
    "CLASSES",
    "OBJECTS",
    "STYLES",
    "WEIGHTS",
    "Judge",
    "Probabilities",
    "Rates",
    "class_of",
    "draw",
    "load",
    "phrase",
    "plain",
    "rates",
    "settings",
    "some_pairs",
    "unnamed",
]

WEIGHTS = Path(__file__).parent / "weights"


def load(dtype: torch.dtype = torch.float32) -> StableDiffusionPipeline:
    """The pipeline, on the CPU. Its weights are stored in float16."""
    return StableDiffusionPipeline.from_pretrained(WEIGHTS, dtype=dtype, local_files_only=True)
