"""`Family`: what a trainer must know about a kind of pipeline, and nothing about training. `Schedule`: its denoising.

A family encodes prompts, asks the denoiser for its prediction, and says which layers read the text. `Family.schedule`
gives a frozen `Schedule`: the timesteps of a trajectory, its first noise and its steps. States and predictions are
(B, C, H, W), and (B, C, F, H, W) for videos.

A new kind of pipeline is a subclass, passed in as `ESDTrainer(pipe, family=Mine(pipe))`. Most subclasses derive from
`DiffusionFamily` or `FlowFamily` (`families.schedules`), which have the schedule.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from ..denoiser import find_denoiser
from ..groups import TEXT_INPUTS, TEXT_LAYERS
from ..quantization import cast_again, compute_dtype
from ..streams import noise
from .places import Places, text_first

Conditioning = dict[str, Tensor]
"""The denoiser's inputs for N prompts: keyword arguments whose first dimension is N."""


class Family(ABC):
    """A kind of pipeline.

    Attributes:
        pipelines: Names of the diffusers classes it handles, subclasses included; the first one generates images from
            text alone.
        component: The pipeline's attribute that holds the denoiser, and the prefix of its weights in a file.
        text: Key of a conditioning whose value is the prompts' token states, (N, tokens, width).
        text_layers: Regular expression that matches, from the start, the names of the layers that read the text: the
            group `"esd-x"`.
        text_inputs: The same for those among them whose inputs are text alone: the group `"esd-x-strict"`.
        text_states: The same for the layers whose inputs are the token states of `encode`, known without the denoiser.
        shared_layers: The same for the layers that are given text and image in one sequence, (B, tokens, width).
        can_be_captured: Whether iterations run as CUDA graphs, as measured on a GPU.
        pipe: The pipeline.
    """

    pipelines: ClassVar[tuple[str, ...]]
    component: ClassVar[str]
    text: ClassVar[str] = "encoder_hidden_states"
    text_layers: ClassVar[str] = TEXT_LAYERS
    text_inputs: ClassVar[str] = TEXT_INPUTS
    text_states: ClassVar[str] = TEXT_INPUTS
    shared_layers: ClassVar[str] = r"(?!)"
    can_be_captured: ClassVar[bool] = False

    def __init__(self, pipe: DiffusionPipeline) -> None:
        self.pipe: Any = pipe

    @classmethod
    def handles(cls, pipe: Any) -> bool:
        """Whether a pipeline is of this kind."""
        return any(kind.__name__ in cls.pipelines for kind in type(pipe).__mro__)

    @property
    def denoiser(self) -> Any:
        """The pipeline's denoiser, a diffusers model, without the wrapper of `torch.compile`."""
        return find_denoiser(self.pipe, self.component)[1]

    @property
    def network(self) -> Any:
        """The denoiser as it is called: compiled, if the user has compiled it."""
        return getattr(self.pipe, self.component)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer whose words the text encoder knows."""
        return self.pipe.tokenizer

    @property
    def device(self) -> torch.device:
        """Where the pipeline computes. With offloading its weights may be elsewhere."""
        return self.pipe._execution_device

    @property
    def dtype(self) -> torch.dtype:
        """The type in which the denoiser computes."""
        return compute_dtype(self.denoiser)

    def check(self) -> None:
        """Refuse a pipeline of this kind that cannot be trained.

        Raises:
            ValueError: With the reason and what to do.
        """
        vae = self.pipe.vae
        # Autoencoders of videos call them z_dim.
        latent_channels = self.channels if vae is None else vae.config.get("latent_channels") or vae.config.z_dim
        if self.channels != latent_channels:
            raise ValueError(
                f"The denoiser takes {self.channels} channels and the autoencoder makes {latent_channels}: an "
                "inpainting or image-conditioned model. Train on the text-to-image model that it was made from."
            )

    def progress_bar(self, label: str, total: int) -> Any:
        """The pipeline's own progress bar, a context manager; `set_progress_bar_config(disable=True)` holds for it."""
        bar = self.pipe.progress_bar(total=total)
        bar.set_description(label)
        return bar

    @property
    def scale_factor(self) -> int:
        """Pixels per side of a latent."""
        return self.pipe.vae_scale_factor

    @property
    def patch(self) -> int:
        """Pixels per side of the smallest unit of the denoiser; the size of an image must be a multiple of it."""
        return self.scale_factor * getattr(self.denoiser.config, "patch_size", 1)

    @property
    def channels(self) -> int:
        """Channels of a latent."""
        return self.denoiser.config.in_channels

    def latent_shape(self, size: int | None) -> tuple[int, ...]:
        """Shape of one latent without its batch dimension, (C, H, W).

        Args:
            size: Height and width in pixels; `None` means the model's own.

        Raises:
            ValueError: If `size` is not a multiple of `patch`.
        """
        factor, own = self.scale_factor, self.default_size
        sides = (size, size) if size is not None else (own, own) if isinstance(own, int) else own
        for side in sides:
            if side % self.patch:
                near = (max(1, side // self.patch) * self.patch, (side // self.patch + 1) * self.patch)
                raise ValueError(
                    f"`size` must be a multiple of {self.patch}, the pixels of a patch; got {side}; give {near[0]} or "
                    f"{near[1]}."
                )
        return (self.channels, *(side // factor for side in sides))

    @property
    def default_size(self) -> int | tuple[int, int]:
        """The model's own height and width in pixels; one number if they are equal."""
        size, factor = self.denoiser.config.sample_size, self.scale_factor
        return size * factor if isinstance(size, int) else (size[0] * factor, size[1] * factor)

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """The conditioning of N prompts, one row each; `""` is what the pipeline uses if there is no prompt."""

    @abstractmethod
    def predict(self, x_t: Tensor, t: Tensor, conditioning: Conditioning, guidance_scale: float) -> Tensor:
        """The denoiser's prediction.

        Args:
            x_t: States, (B, C, H, W).
            t: The timestep of each, (B,), of the schedule's `timesteps`.
            conditioning: B rows.
            guidance_scale: For denoisers that take it as an input (guidance-distilled models).

        Returns:
            (B, C, H, W).
        """

    def guide(self, e_null: Tensor, e: Tensor, guidance_scale: float) -> Tensor:
        """Guided predictions, from those without a prompt and those for the prompts."""
        return e_null + guidance_scale * (e - e_null)

    def places(self, layer: str, conditioning: Conditioning, length: int) -> Places:
        """Which inputs (B, length, width) of a layer of `text_inputs` or `shared_layers` are of text, and which of the
        image. Here the text comes first, and its padding is zeros or is read as text."""
        return text_first(conditioning[self.text].any(-1), length)

    @abstractmethod
    def schedule(self, steps: int, shape: tuple[int, ...], guidance_scale: float) -> Schedule:
        """A denoising schedule.

        Args:
            steps: Denoising steps.
            shape: Of one latent, (C, H, W); some schedules depend on it.
            guidance_scale: Classifier-free guidance of a trajectory.
        """


@dataclass(frozen=True, kw_only=True, eq=False)
class Schedule(ABC):
    """A denoising schedule: where trajectories start, what is predicted on them, and how they go on.

    It has no memory: a step needs the state, its position and the prediction, nothing of earlier steps. So many
    trajectories can be at different positions, and advance in one batch.

    Attributes:
        family: Its family.
        shape: Of one latent, (C, H, W).
        guidance_scale: Classifier-free guidance.
        timesteps: (steps,), from noise to image. A *position* is an index in it: 0 is pure noise, and `len(timesteps)`
            is the finished latent.
    """

    family: Family
    shape: tuple[int, ...]
    guidance_scale: float
    timesteps: Tensor

    def noise(self, generator: torch.Generator, n: int = 1) -> Tensor:
        """First states, (n, C, H, W), at position 0: standard normal noise, drawn on the CPU in float32."""
        return noise((n, *self.shape), generator).to(self.timesteps.device, self.family.dtype)

    def predict(self, x_t: Tensor, position: Tensor, conditioning: Conditioning) -> Tensor:
        """The denoiser's prediction, (B, C, H, W), at states (B, C, H, W) and positions (B,), for B rows."""
        t = self.timesteps[position.to(self.timesteps.device)]
        with cast_again(self.family.denoiser):
            return self.family.predict(x_t, t, conditioning, self.guidance_scale)

    def guide(self, e_null: Tensor, e: Tensor) -> Tensor:
        """Guided predictions, from those without a prompt and those for the prompts."""
        return self.family.guide(e_null, e, self.guidance_scale)

    @abstractmethod
    def noised(self, x_0: Tensor, e: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """States of known samples, and the predictions that a denoiser which knows them makes there.

        Args:
            x_0: Samples: finished latents, (B, C, H, W).
            e: Standard normal noise, (B, C, H, W).
            position: Where in the schedule the states stand, (B,).

        Returns:
            The states and the predictions, each (B, C, H, W).
        """

    @abstractmethod
    def step(self, e: Tensor, x_t: Tensor, position: Tensor, towards: Tensor) -> Tensor:
        """One denoising step without noise, exact for any distance.

        Args:
            e: Guided predictions, (B, C, H, W).
            x_t: The states, (B, C, H, W).
            position: Where in the schedule each stands, (B,).
            towards: The later position to which each goes, (B,); `len(timesteps)` is the finished latent.

        Returns:
            The states there, (B, C, H, W).
        """
