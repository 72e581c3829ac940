"""emoji_joint: the sibling of emoji_sd whose denoiser is a small Stable Diffusion 3, in which text and image attend to
each other jointly. Autoencoder, tokenizer, words and judge are those of emoji_sd's preset `small`.

    from emoji_sd.joint import load_joint

`train_transformer.py` made its weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline
from torch import Tensor

from diffusers_esd.config import Group

from .preset import SMALL
from .settings import settings

JOINT_WEIGHTS = Path(__file__).parent / "weights_joint"


class JointPipeline(StableDiffusion3Pipeline):
    """A Stable Diffusion 3 without T5, which takes no tokens. In the original a missing T5 takes 256 tokens of zeros,
    with which this model would be three times slower."""

    def _get_t5_prompt_embeds(
        self,
        prompt: Any = None,
        num_images_per_prompt: int = 1,
        max_sequence_length: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> Tensor:
        return super()._get_t5_prompt_embeds(prompt, num_images_per_prompt, 0, device, dtype)


def autoencoder(dtype: torch.dtype = torch.float32) -> AutoencoderKL:
    """The autoencoder of the preset `small`; its configuration says that latents are not shifted, which SD 3 reads."""
    folder = SMALL.file("model_index.json").parent / "vae"
    return AutoencoderKL.from_pretrained(folder, shift_factor=0.0, dtype=dtype, local_files_only=True)


def load_joint(dtype: torch.dtype = torch.float32) -> JointPipeline:
    """The pipeline, on the CPU. Its weights are stored in float16.

    Raises:
        FileNotFoundError: It was not trained.
    """
    if not (JOINT_WEIGHTS / "model_index.json").exists():
        raise FileNotFoundError(
            f"{JOINT_WEIGHTS} is missing. In a clone, run `python -m emoji_sd.train_transformer` from `examples/`. The "
            "package `emoji-sd` does not have it."
        )
    return JointPipeline.from_pretrained(
        JOINT_WEIGHTS,
        vae=autoencoder(dtype),
        text_encoder_3=None,
        tokenizer_3=None,
        dtype=dtype,
        local_files_only=True,
    )


def joint_settings(group: Group | str) -> dict[str, Any]:
    """Fields of `ESDConfig` for this model."""
    return {**settings(group), "learning_rate": 3e-3}
