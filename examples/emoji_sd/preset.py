"""A preset: which words a model of this kind knows, how large it is and how it is trained.

`small` is the model whose weights are in `weights/`. `large` knows five times as many objects, with synonyms; its
weights are in `weights_large/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .vocabulary import VOCABULARY, Vocabulary
from .vocabulary_large import LARGE_VOCABULARY

CACHE = Path(__file__).parents[2] / ".cache" / "emoji_sd"

PresetName = Literal["small", "large"]
Job = Literal["autoencoder", "diffusion", "transformer", "judge"]


@dataclass(frozen=True)
class Training:
    """How one of the networks is trained.

    Attributes:
        updates: Optimiser updates in all.
        batch: Images per update.
        learning_rate: At its highest.
    """

    updates: int
    batch: int
    learning_rate: float


@dataclass(frozen=True)
class Preset:
    """A model of this kind.

    Attributes:
        name: `"small"` or `"large"`.
        vocabulary: The words of its captions.
        weights: Folder of the finished weights.
        cache: Folder of the drawings, the training images and the checkpoints.
        augmentations: Training images per drawing.
        trainings: How each network is trained. The `transformer` is that of `joint.py`, which only `small` has.
        caption_weights: How often an image carries each of its captions, in the order of `Vocabulary.captions`.
        tokens: Tokens that the tokenizer may learn.
        text_width: Width of the text encoder, a multiple of 32.
        text_layers: Layers of the text encoder.
        denoiser_widths: Channels of the denoiser's three blocks, multiples of 8.
        judge_widths: Channels of the judge's four blocks, multiples of 8.
    """

    name: PresetName
    vocabulary: Vocabulary
    weights: Path
    cache: Path
    augmentations: int
    trainings: Mapping[Job, Training]
    caption_weights: tuple[float, ...]
    tokens: int
    text_width: int
    text_layers: int
    denoiser_widths: tuple[int, int, int]
    judge_widths: tuple[int, int, int, int]

    def train_commands(self) -> list[str]:
        """The commands that make the weights, in their order, run from `examples/`."""
        scripts = ("data", "train_autoencoder", "train_diffusion", "train_judge")
        return [f"python -m emoji_sd.{script} --preset {self.name}" for script in scripts]

    def file(self, name: str) -> Path:
        """A file of the finished weights.

        Raises:
            FileNotFoundError: The file is missing, as it is before training.
        """
        path = self.weights / name
        if not path.exists():
            commands = "; ".join(self.train_commands())
            raise FileNotFoundError(
                f"The preset {self.name!r} was not trained: {path} is missing. The package `emoji-sd` has only the "
                f"small one. In a clone, run these from `examples/`: {commands}."
            )
        return path


SMALL = Preset(
    name="small",
    vocabulary=VOCABULARY,
    weights=Path(__file__).parent / "weights",
    cache=CACHE,
    augmentations=24,
    trainings={
        "autoencoder": Training(4500, 16, 2e-3),
        "diffusion": Training(6000, 40, 1.2e-3),
        "transformer": Training(9000, 160, 1e-3),
        "judge": Training(1200, 64, 2e-3),
    },
    caption_weights=(0.40, 0.14, 0.08, 0.08, 0.10, 0.075, 0.125),
    tokens=2000,
    text_width=128,
    text_layers=2,
    denoiser_widths=(64, 112, 160),
    judge_widths=(24, 48, 80, 128),
)

LARGE = Preset(
    name="large",
    vocabulary=LARGE_VOCABULARY,
    weights=Path(__file__).parent / "weights_large",
    cache=CACHE / "large",
    augmentations=12,
    trainings={
        "autoencoder": Training(5000, 64, 2e-3),
        "diffusion": Training(3800, 256, 1e-3),
        "judge": Training(2500, 128, 2e-3),
    },
    # Three captions with the object's word and three with each of two synonyms, then the class, the style, nothing.
    caption_weights=(0.24, 0.08, 0.04, 0.10, 0.04, 0.01, 0.10, 0.04, 0.01, 0.08, 0.08, 0.06, 0.12),
    tokens=4000,
    text_width=256,
    text_layers=4,
    denoiser_widths=(72, 120, 176),
    judge_widths=(32, 64, 112, 176),
)

PRESETS: dict[str, Preset] = {preset.name: preset for preset in (SMALL, LARGE)}


def preset_named(name: str) -> Preset:
    """The preset of a name.

    Raises:
        ValueError: There is no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"`preset` must be one of {', '.join(map(repr, PRESETS))}, got {name!r}.")
    return PRESETS[name]
