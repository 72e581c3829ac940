"""emoji_sd: a small real Stable Diffusion, 64 px, that draws forty objects in five emoji styles.

    from emoji_sd import Judge, load, rates

`load()` returns the pipeline, `Judge` classifies objects and styles in images, and `rates` says how often a pipeline
generates what the prompt names. The scripts that made the weights are `data.py`, `train_autoencoder.py`,
`train_diffusion.py` and `train_judge.py`. ATTRIBUTION.md lists the authors of the artwork it learned from.
"""

from __future__ import annotations

import torch
from diffusers import StableDiffusionPipeline

from .judge import Judge, Probabilities
from .preset import SMALL, PresetName, preset_named
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

WEIGHTS = SMALL.weights


def load(dtype: torch.dtype = torch.float32, preset: PresetName = "small") -> StableDiffusionPipeline:
    """The pipeline, on the CPU. Its weights are stored in float16.

    Raises:
        FileNotFoundError: The preset was not trained.
    """
    folder = preset_named(preset).file("model_index.json").parent
    return StableDiffusionPipeline.from_pretrained(folder, dtype=dtype, local_files_only=True)
