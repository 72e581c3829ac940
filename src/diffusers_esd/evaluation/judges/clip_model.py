"""`CLIP`: a model that maps images and texts to vectors of unit length. Several judges can share one.

Radford et al., arXiv:2103.00020. The product of two vectors, a cosine, says how well image and text fit.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image, new
from torch import Tensor

from ..extras import package_record
from .pixels import rgb
from .weights import FOLDER, MissingWeightsError, sha256_of_tensors

VIT_L_14 = "openai/clip-vit-large-patch14"


class CLIP:
    """A CLIP model, for images and texts. Several judges can share one.

    Args:
        model: Its id on the Hub, or the path of a folder that `CLIPModel.save_pretrained` and
            `CLIPProcessor.save_pretrained` wrote. An id is looked for in the folder that the environment variable
            `DIFFUSERS_ESD_WEIGHTS` names, as a folder of this name, then in the cache of the Hub.
        device: Where it is computed.
        allow_download: Whether it may be downloaded from the Hub.

    Raises:
        MissingWeightsError: If it is nowhere, or cannot be downloaded.
    """

    def __init__(
        self, model: str | Path = VIT_L_14, *, device: str | torch.device = "cpu", allow_download: bool = False
    ) -> None:
        from transformers import CLIPModel, CLIPProcessor

        source, local = _source(str(model))
        try:
            only_local = local or not allow_download
            self._model: Any = CLIPModel.from_pretrained(source, local_files_only=only_local)
            self._processor: Any = CLIPProcessor.from_pretrained(source, local_files_only=only_local)
        except OSError as error:
            reason = f"{source} does not have a whole model ({error})." if local else _missing(source, allow_download)
            raise MissingWeightsError(f"The CLIP model {model} {reason}") from error
        self._model.eval().to(device)
        self._source, self._device = str(model), device
        self.name = f"clip-{Path(model).name.removeprefix('clip-')}"

    def record(self) -> dict[str, Any]:
        """Name of the model, and a digest of its weights and its way of preparing images."""
        source = Path(self._source)
        return {
            **package_record("transformers"),
            "model": source.name if source.exists() else self._source,  # the rest of a path is private
            "sha256": self._sha256,
            "image_size": self._model.config.vision_config.image_size,
            # Its arithmetic differs a little with and without torchvision.
            "image_processor": type(self._processor.image_processor).__name__,
        }

    @cached_property
    def _sha256(self) -> str:
        return sha256_of_tensors(self._model.state_dict())

    @torch.no_grad()
    def images(self, images: Sequence[Image]) -> Tensor:
        """Vectors of unit length (N, D) of images."""
        pixels = self._processor(images=rgb(images), return_tensors="pt").pixel_values
        return self._outputs(self._tokens([""]), pixels).image_embeds

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Vectors of unit length (N, D) of texts; a text that is too long is cut off."""
        blank = self._processor(images=new("RGB", (8, 8)), return_tensors="pt").pixel_values
        return self._outputs(self._tokens(texts), blank).text_embeds

    @property
    def scale(self) -> float:
        """What cosines are multiplied with before a softmax."""
        return self._model.logit_scale.exp().item()

    # The model's call has embeddings of both kinds in every version of transformers; `get_image_features` changed.

    def _outputs(self, tokens: Any, pixels: Tensor) -> Any:
        return self._model(**tokens.to(self._device), pixel_values=pixels.to(self._device))

    def _tokens(self, texts: Sequence[str]) -> Any:
        longest = self._model.config.text_config.max_position_embeddings
        return self._processor(text=list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt")

    def __call__(self, images: Sequence[Image]) -> Tensor:
        """The same as `images`, so that a `FrechetDistance` can use it."""
        return self.images(images)


def _source(model: str) -> tuple[str, bool]:
    """What transformers gets, and whether it is a local folder."""
    if Path(model).is_dir():
        return model, True
    if os.environ.get(FOLDER):
        folder = Path(os.environ[FOLDER]).expanduser() / model
        if folder.is_dir():
            return str(folder), True
    return model, False


def _missing(model: str, allow_download: bool) -> str:
    """Why a model of the Hub is not there, and what to do."""
    if allow_download:
        return "could not be downloaded; are its id and the connection right?"
    return (
        f"is in no local folder and not in the cache of the Hub. Get {model} from its page on the Hugging Face Hub, "
        "which also has its licence; then pass the path of its folder as `model`, or put it into the folder that the "
        f"environment variable {FOLDER} names, as {model}; or pass `allow_download=True`."
    )
