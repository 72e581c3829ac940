"""`Method`: one column of a report: the base model, erasures, or another way to keep a concept out of images.

A negative prompt and Safe Latent Diffusion do not change weights. So a method is not a model but a way to draw: a
context in which a function draws prompts. The pipeline is left as it was found.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import groupby
from typing import Any, Protocol

from diffusers import DiffusionPipeline
from PIL.Image import Image

from .. import adapter
from ..base_model import fingerprint, model_name
from ..denoiser import active_scales, adapter_names, find_denoiser, switched_off
from ..erasure import Erasure
from ..files import digest
from ..pictures.draw import draw_batch
from ..quantization import quantization
from ..stacks.stack import stack
from .prompts import Prompt


class Draw(Protocol):
    """Draws prompts."""

    def __call__(self, prompts: Sequence[Prompt], **options: Any) -> list[Image]:
        """An image (PIL) of each prompt, from its own seed.

        Args:
            prompts: The prompts.
            options: Further arguments of the pipeline's call, such as `prompt_embeds` of all prompts.
        """
        ...


class Method(ABC):
    """One column of a report.

    Attributes:
        name: What it is called there; also the name of its folder.
        erases: The concepts that it should keep out of images.
    """

    name: str
    erases: tuple[str, ...] = ()

    @abstractmethod
    def record(self, pipe: DiffusionPipeline) -> dict[str, Any]:
        """Everything that the images depend on besides prompts and options, as JSON types."""

    @abstractmethod
    def drawing(self, pipe: DiffusionPipeline, options: Mapping[str, Any]) -> AbstractContextManager[Draw]:
        """A context that yields the function that draws.

        Args:
            pipe: The base model's pipeline.
            options: Arguments of the pipeline's call for every prompt, such as `num_inference_steps`.
        """

    def check(self, pipe: DiffusionPipeline) -> None:  # noqa: B027
        """Refuse a pipeline that this method cannot draw with, before anything is drawn.

        Raises:
            TypeError: If it is of a kind that the method does not know.
            ValueError: If a part of it does not fit.
        """

    def pipeline(self, pipe: DiffusionPipeline) -> DiffusionPipeline:
        """The pipeline that draws, inside the context; an attack works on it.

        Args:
            pipe: The base model's pipeline. It draws by itself, unless the method says otherwise.
        """
        return pipe


class Base(Method):
    """The pipeline as it is, with the adapters that are active on it."""

    name = "base"

    def record(self, pipe: DiffusionPipeline) -> dict[str, Any]:
        """The base weights and the active adapters."""
        return base_record(pipe)

    @contextmanager
    def drawing(self, pipe: DiffusionPipeline, options: Mapping[str, Any]) -> Iterator[Draw]:
        """Draws with the pipeline."""
        yield drawer(pipe, options)


class Erased(Method):
    """Erasures, active together.

    Args:
        name: Name of the column.
        parts: Erasures and their scales.
    """

    def __init__(self, name: str, parts: Sequence[tuple[Erasure, float]]) -> None:
        self.name, self._parts = name, tuple(parts)
        self.erases = tuple(dict.fromkeys(concept for e, _ in parts for concept in e.provenance.concepts))

    def record(self, pipe: DiffusionPipeline) -> dict[str, Any]:
        """The base weights, and name, scale and digest of each erasure."""
        parts = [{"name": e.name, "scale": scale, "weights": digest(e.weights)} for e, scale in self._parts]
        return {**base_record(pipe), "erasures": parts}

    @contextmanager
    def drawing(self, pipe: DiffusionPipeline, options: Mapping[str, Any]) -> Iterator[Draw]:
        """Draws with the erasures, beside the adapters that are active."""
        with adapter.as_found(find_denoiser(pipe)[1]):
            stack(pipe, dict(self._parts))
            yield drawer(pipe, options)


@contextmanager
def without(pipe: DiffusionPipeline, erasures: Sequence[Erasure]) -> Iterator[None]:
    """Erasures that are on the pipeline already, as after a training, are inactive."""
    component, denoiser = find_denoiser(pipe)
    names = [
        name
        for name in adapter_names(denoiser)
        if any(adapter.is_loaded(denoiser, name, component, erasure.weights) for erasure in erasures)
    ]
    with switched_off(denoiser, names):
        yield


def base_record(pipe: DiffusionPipeline) -> dict[str, Any]:
    """Name and fingerprint of the base model, its type and its scheduler, and the active adapters."""
    denoiser: Any = find_denoiser(pipe)[1]
    scheduler: Any = getattr(pipe, "scheduler", None)
    kinds = quantization(denoiser)
    return {
        "model": model_name(pipe),
        "fingerprint": fingerprint(denoiser),
        **({"quantization": kinds} if kinds else {}),  # left out otherwise, as in evaluations of earlier versions
        "dtype": str(denoiser.dtype),
        "pipeline": type(pipe).__name__,
        "scheduler": type(scheduler).__name__,
        "scheduler_config": {} if scheduler is None else json.loads(scheduler.to_json_string()),
        "adapters": active_scales(denoiser),
    }


def drawer(pipe: DiffusionPipeline, options: Mapping[str, Any]) -> Draw:
    """The function that draws with a pipeline as it is.

    Prompts that differ in guidance or size are drawn in different calls, and so are those with and without a negative
    prompt: some pipelines have other embeddings for no negative prompt than for an empty one.

    Args:
        pipe: The pipeline.
        options: Arguments of its call.
    """

    def draw(prompts: Sequence[Prompt], **more: Any) -> list[Image]:
        numbered = sorted(enumerate(prompts), key=lambda pair: repr(_kind(pair[1])))
        images: dict[int, Image] = {}
        for _, part in groupby(numbered, key=lambda pair: _kind(pair[1])):
            rows = list(part)
            numbers, batch = [i for i, _ in rows], [prompt for _, prompt in rows]
            own = call_options(batch[0])
            if batch[0].negative_prompt:
                own["negative_prompt"] = [prompt.negative_prompt for prompt in batch]
            texts = None if "prompt_embeds" in more else [prompt.text for prompt in batch]
            given = {**options, **own, **{key: _rows(value, numbers, len(prompts)) for key, value in more.items()}}
            drawn = draw_batch(pipe, texts, [prompt.seed for prompt in batch], **given)
            images |= dict(zip(numbers, drawn, strict=True))
        return [images[i] for i in range(len(prompts))]

    return draw


def call_options(prompt: Prompt) -> dict[str, Any]:
    """The arguments of a pipeline's call that one prompt has of its own, and a batch shares."""
    own = {"guidance_scale": prompt.guidance_scale, "width": prompt.width, "height": prompt.height}
    return {key: value for key, value in own.items() if value is not None}


def _kind(prompt: Prompt) -> tuple[dict[str, Any], bool]:
    """What the prompts of one call share."""
    return call_options(prompt), bool(prompt.negative_prompt)


def _rows(value: Any, numbers: Sequence[int], total: int) -> Any:
    """The rows of a tensor or a list with one for each prompt; any other value as it is."""
    if hasattr(value, "shape") and len(value) == total:
        return value[list(numbers)]
    return [value[i] for i in numbers] if isinstance(value, list) and len(value) == total else value
