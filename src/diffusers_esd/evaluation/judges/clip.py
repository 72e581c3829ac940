"""`CLIP`, and judges that use it: `CLIPScore`, `CLIPZeroShot` and `CLIPSimilarity`.

A CLIP model (Radford et al., arXiv:2103.00020) maps images and texts to vectors of unit length, and their product, a
cosine, says how well they fit. Publications print it in different scales: as it is (0.16 to 0.3), times 100, or times
2.5. The scores here are cosines. `record` names the model: only scores of the same model can be compared.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL.Image import Image, new
from torch import Tensor

from ...arguments import check_prompts
from ...files import digest
from ..extras import package_record
from .base import Finding, Judge, Kind, Picture
from .pixels import rgb
from .weights import FOLDER, MissingWeightsError

VIT_L_14 = "openai/clip-vit-large-patch14"
_TEMPLATE = "a photo of {}"


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
            "sha256": digest({name: value.cpu() for name, value in self._model.state_dict().items()}),
            "image_size": self._model.config.vision_config.image_size,
            # Its arithmetic differs a little with and without torchvision.
            "image_processor": type(self._processor.image_processor).__name__,
        }

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


class _Cosine(Judge):
    kind: ClassVar[Kind] = "scores"

    def __init__(self, clip: CLIP | None = None) -> None:
        self._clip = clip or CLIP()

    def record(self) -> dict[str, Any]:
        """The model and the scale."""
        return {**self._clip.record(), "scale": "cosine"}


class CLIPScore(_Cosine):
    """How well an image fits its prompt: the cosine of their vectors.

    Args:
        clip: The model; `None` means `CLIP()`.
    """

    name = "clip_score"
    better = "higher"

    def __call__(self, pictures: Sequence[Picture]) -> list[tuple[Finding, ...]]:
        """The cosine of each image and its prompt.

        Raises:
            ValueError: If there are no images.
        """
        images = self._clip.images([picture.image for picture in pictures])
        texts = self._clip.texts([picture.prompt.text for picture in pictures])
        return [(Finding("clip_score", value),) for value in (images * texts).sum(1).tolist()]


class CLIPSimilarity(_Cosine):
    """How similar an image is to the base model's: the cosine of their vectors, 1 if they are equal.

    Args:
        clip: The model; `None` means `CLIP()`.
    """

    name = "clip_similarity"

    def __call__(self, pictures: Sequence[Picture]) -> list[tuple[Finding, ...]]:
        """The cosine of each image and the base model's.

        Raises:
            ValueError: If there are no images.
        """
        images = self._clip.images([picture.image for picture in pictures])
        bases = self._clip.images([picture.base for picture in pictures])
        return [(Finding("clip_similarity", value),) for value in (images * bases).sum(1).tolist()]


class CLIPZeroShot(Judge):
    """Which of several labels fits an image best.

    Args:
        labels: The labels to choose from; two at least.
        template: The text of a label: `"a photo of {}"`.
        clip: The model; `None` means `CLIP()`.
        name: Name of the judge.
        question: The key of `Prompt.labels` that it answers.

    Raises:
        ValueError: If there are fewer than two labels, one is there twice, or the template has no place for a label.
    """

    kind: ClassVar[Kind] = "recognises"

    def __init__(
        self,
        labels: Sequence[str],
        *,
        template: str = _TEMPLATE,
        clip: CLIP | None = None,
        name: str = "clip_zero_shot",
        question: str = "subject",
    ) -> None:
        self.labels = check_prompts("labels", labels)
        if len(set(self.labels)) < max(2, len(self.labels)):
            raise ValueError(f"`labels` must be two or more, all different; got {list(self.labels)}.")
        if template.count("{}") != 1:
            raise ValueError(f"`template` must have one {{}} in the place of the label, got {template!r}.")
        self.name, self.question, self._template, self._clip = name, question, template, clip or CLIP()
        self._texts = self._clip.texts([template.format(label) for label in self.labels])

    def record(self) -> dict[str, Any]:
        """The model, the labels and their template."""
        return {
            **self._clip.record(),
            "labels": list(self.labels),
            "template": self._template,
            "question": self.question,
        }

    def knows(self, label: str) -> bool:
        """Whether a label is one of those to choose from."""
        return label in self.labels

    def __call__(self, pictures: Sequence[Picture]) -> list[tuple[Finding, ...]]:
        """The label that fits each image best, with its probability among the labels.

        Raises:
            ValueError: If there are no images.
        """
        best = self.probabilities([picture.image for picture in pictures]).max(1)
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [(Finding(self.labels[number], score),) for number, score in rows]

    def probabilities(self, images: Sequence[Image]) -> Tensor:
        """The probability of each label (N, labels); a row adds up to 1."""
        return (self._clip.scale * self._clip.images(images) @ self._texts.T).float().softmax(1)

    def ranks(self, images: Sequence[Image], label: str) -> list[int]:
        """The rank of a label in each image, from 1.

        Raises:
            ValueError: If the label is not one of those to choose from.
        """
        if label not in self.labels:
            raise ValueError(f"`label` must be one of {', '.join(map(repr, self.labels))}; got {label!r}.")
        probabilities = self.probabilities(images)
        own = probabilities[:, self.labels.index(label)]
        return [1 + n for n in (probabilities > own[:, None]).sum(1).tolist()]


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
