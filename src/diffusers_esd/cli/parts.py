"""`Parts`: which parts of a model a command loads. A training that draws nothing does not need the autoencoder.

The settings of the autoencoder are needed in any case: pipelines take from them how many pixels a latent has. So the
pipeline is made with an autoencoder on PyTorch's meta device, which has shapes and no numbers instead of weights.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from typing import Any

_OF_IMAGES = ("safety_checker", "feature_extractor", "image_encoder")


@dataclass(frozen=True)
class Parts:
    """The parts of a folder or a repository that are loaded, and on which device. A single file is loaded as a whole.

    Attributes:
        draws: Whether images are drawn, which needs the autoencoder, and the safety checker if there is one.
        encodes: Whether prompts are encoded, which needs the text encoders.
        denoiser_waits: Whether the denoiser stays on the CPU. A training with `offload` or `free_text_encoders` moves
            it to the device after the text encoders have left it.
    """

    draws: bool = True
    encodes: bool = True
    denoiser_waits: bool = False

    def placeholders(self, options: argparse.Namespace) -> dict[str, Any]:
        """Arguments of `from_pretrained` in place of what is not loaded.

        Args:
            options: Those of `add_model`.
        """
        if self.draws and self.encodes:
            return {}
        from ..hub import locate

        index = locate(options.model, "model_index.json", token=options.token, revision=options.revision)
        parts = json.loads(index.read_text(encoding="utf-8"))
        placeholders: dict[str, Any] = {}
        if not self.encodes:
            placeholders |= {name: None for name in parts if name.startswith("text_encoder")}
        if not self.draws:
            placeholders |= {name: None for name in _OF_IMAGES if name in parts} | _autoencoder(options, parts)
            if "safety_checker" in parts:
                placeholders["requires_safety_checker"] = False  # diffusers would warn that it is missing
        return placeholders

    def place(self, pipe: Any, device: str) -> Any:
        """The pipeline on its device, without placeholders.

        Raises:
            TypeError: If the kind of pipeline is unknown, and no image is to be drawn.
            ValueError: If it cannot be trained, and no image is to be drawn.
        """
        from ..denoiser import find_denoiser

        if not self.draws:
            from ..families import checked_family

            checked_family(pipe, None)  # compares the denoiser with the settings of the autoencoder
            pipe.vae = None
        if not self.denoiser_waits or not self.encodes:
            return pipe.to(device)
        denoiser = find_denoiser(pipe)[0]
        for name, part in pipe.components.items():
            if name != denoiser and hasattr(part, "parameters"):
                part.to(device)
        return pipe


WHOLE = Parts()


def _autoencoder(options: argparse.Namespace, parts: dict[str, Any]) -> dict[str, Any]:
    """The autoencoder on the meta device; nothing if there is none of diffusers' own."""
    import diffusers
    import torch

    library, name = parts.get("vae") or ("", "")
    if library != "diffusers":
        return {}
    kind = getattr(diffusers, name)
    config = kind.load_config(options.model, subfolder="vae", token=options.token, revision=options.revision)
    with torch.device("meta"):
        return {"vae": kind.from_config(config)}
