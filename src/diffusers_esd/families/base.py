"""`Family`: what a trainer must know of a kind of pipeline, and nothing of training.

A family encodes prompts, walks a denoising schedule without memory, asks the denoiser for its prediction, and says
which of its layers read the text. A new one is a subclass, handed in as `ESDTrainer(pipe, family=Mine(pipe))`; most
derive from `DiffusionFamily` or `FlowFamily`, which have the schedule.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline
from diffusers.utils.torch_utils import unwrap_module
from torch import Tensor

from ..groups import TEXT_INPUTS, TEXT_LAYERS

Conditioning = dict[str, Tensor]
"""The denoiser's inputs for N prompts: keyword arguments whose first dimension is N."""


class Family(ABC):
    """A kind of pipeline.

    Attributes:
        pipelines: Names of the diffusers classes it handles, subclasses included; the first makes pictures of text.
        component: The pipeline's attribute that holds the denoiser, and the prefix of its weights in a file.
        text: Key of a conditioning whose value is the prompts' token states, (N, tokens, width).
        text_layers: Regular expression that matches, from the start, the names of the layers that read the text: the
            group `"esd-x"`.
        text_inputs: The same of those among them whose inputs are of the text alone: the group `"esd-x-strict"`.
        text_states: The same of the layers that are given the token states exactly as `encode` returns them: what they
            see is known without evaluating the denoiser.
        pipe: The pipeline.
        timesteps: The schedule's timesteps, (steps,), from noise to picture, once `prepare` was called.
        guidance_scale: Classifier-free guidance of a trajectory, once `prepare` was called.
    """

    pipelines: ClassVar[tuple[str, ...]]
    component: ClassVar[str]
    text: ClassVar[str] = "encoder_hidden_states"
    text_layers: ClassVar[str] = TEXT_LAYERS
    text_inputs: ClassVar[str] = TEXT_INPUTS
    text_states: ClassVar[str] = TEXT_INPUTS
    timesteps: Tensor
    guidance_scale: float

    def __init__(self, pipe: DiffusionPipeline) -> None:
        self.pipe: Any = pipe

    @classmethod
    def handles(cls, pipe: Any) -> bool:
        """Whether a pipeline is of this kind."""
        return any(kind.__name__ in cls.pipelines for kind in type(pipe).__mro__)

    @property
    def denoiser(self) -> Any:
        """The pipeline's denoiser, a diffusers model, without the wrapper of `torch.compile`."""
        return unwrap_module(getattr(self.pipe, self.component))

    @property
    def tokenizer(self) -> Any:
        """The tokenizer whose words the text encoder knows."""
        return self.pipe.tokenizer

    @property
    def device(self) -> torch.device:
        """Where the pipeline computes, which under offloading is not where its weights are."""
        return self.pipe._execution_device

    @property
    def dtype(self) -> torch.dtype:
        """The type the denoiser computes in."""
        return next(self.denoiser.parameters()).dtype

    def check(self) -> None:
        """Refuse a pipeline of this kind that cannot be trained.

        Raises:
            ValueError: Saying why and what to do.
        """
        vae = self.pipe.vae
        made = self.channels if vae is None else vae.config.latent_channels
        if self.channels != made:
            raise ValueError(
                f"The denoiser takes {self.channels} channels and the autoencoder makes {made} (an inpainting or "
                "image-conditioned model); train on the text-to-image model it was made from."
            )

    @property
    def patch(self) -> int:
        """Pixels of a picture's side that the denoiser takes as one: a size must be a multiple."""
        return self.pipe.vae_scale_factor * getattr(self.denoiser.config, "patch_size", 1)

    @property
    def channels(self) -> int:
        """Channels of a latent."""
        return self.denoiser.config.in_channels

    def latent_shape(self, size: int | None) -> tuple[int, ...]:
        """Shape of one latent without its batch dimension, (C, H, W).

        Args:
            size: Height and width in pixels; `None` means the model's own.

        Raises:
            ValueError: If `size` is no multiple of `patch`.
        """
        factor = self.pipe.vae_scale_factor
        own = self.default_size
        sides = (size, size) if size is not None else (own, own) if isinstance(own, int) else own
        for side in sides:
            if side % self.patch:
                near = (max(1, side // self.patch) * self.patch, (side // self.patch + 1) * self.patch)
                raise ValueError(
                    f"size={side} cannot be divided by {self.patch}, the pixels of a patch; give {near[0]} or "
                    f"{near[1]}."
                )
        return (self.channels, *(side // factor for side in sides))

    @property
    def default_size(self) -> int | tuple[int, int]:
        """The model's own height and width in pixels; one number where they are equal."""
        size, factor = self.denoiser.config.sample_size, self.pipe.vae_scale_factor
        return size * factor if isinstance(size, int) else (size[0] * factor, size[1] * factor)

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """The conditioning of N prompts, one row each; `""` is what the pipeline takes for no prompt."""

    def prepare(self, steps: int, shape: tuple[int, ...], guidance_scale: float) -> None:
        """Set `timesteps` to a schedule of so many steps, and the guidance.

        Args:
            steps: Denoising steps.
            shape: Of one latent, which some schedules depend on.
            guidance_scale: Classifier-free guidance.
        """
        self.guidance_scale = guidance_scale
        self.set_schedule(steps, shape)

    @abstractmethod
    def set_schedule(self, steps: int, shape: tuple[int, ...]) -> None:
        """Set `timesteps`."""

    @abstractmethod
    def predict(self, x_t: Tensor, position: Tensor, conditioning: Conditioning) -> Tensor:
        """The denoiser's prediction.

        Args:
            x_t: States, (B, C, H, W). The first ones are standard normal noise.
            position: Where in the schedule each stands, (B,), 0 for noise.
            conditioning: B rows.

        Returns:
            (B, C, H, W).
        """

    def guide(self, e_null: Tensor, e: Tensor) -> Tensor:
        """Guided predictions, of those for no prompt and those for the prompts."""
        return e_null + self.guidance_scale * (e - e_null)

    @abstractmethod
    def step(self, e: Tensor, x_t: Tensor, position: Tensor, towards: Tensor) -> Tensor:
        """One denoising step without memory or noise, exact however far it goes.

        Args:
            e: Guided predictions, (B, C, H, W).
            x_t: The states, (B, C, H, W).
            position: Where in the schedule each stands, (B,).
            towards: Where each goes, (B,); as many as there are timesteps is the finished latent.
        """
