"""`Family`: what a trainer must know of a kind of pipeline, and nothing of training.

A family encodes prompts, draws the first noise, walks a denoising schedule without memory, and asks the denoiser
for its prediction. A new one is a subclass with these methods, handed in as `ESDTrainer(pipe, family=Mine(pipe))`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

Conditioning = dict[str, Tensor]
"""What the denoiser is told of N prompts: keyword arguments whose first dimension is N."""


class Family(ABC):
    """A kind of pipeline.

    Attributes:
        name: How errors and reports call it.
        component: The pipeline's attribute that holds the denoiser, and the prefix of its weights in a file.
        text: Key of a conditioning whose value is the prompts' token states, (N, tokens, width).
        pipe: The pipeline.
        timesteps: The schedule's timesteps, (steps,), from noise to picture, once `set_schedule` was called.
    """

    name: ClassVar[str]
    component: ClassVar[str]
    text: ClassVar[str] = "encoder_hidden_states"
    timesteps: Tensor

    def __init__(self, pipe: DiffusionPipeline) -> None:
        self.pipe: Any = pipe

    @classmethod
    @abstractmethod
    def handles(cls, pipe: Any) -> bool:
        """Whether a pipeline is of this kind."""

    @property
    def denoiser(self) -> nn.Module:
        """The pipeline's denoiser."""
        return getattr(self.pipe, self.component)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer whose words the text encoder knows."""
        return self.pipe.tokenizer

    @property
    def device(self) -> torch.device:
        """Where the denoiser computes."""
        return next(self.denoiser.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type the denoiser computes in."""
        return next(self.denoiser.parameters()).dtype

    @abstractmethod
    def check(self) -> None:
        """Refuse a pipeline of this kind that cannot be trained.

        Raises:
            ValueError: Saying why and what to do.
        """

    @abstractmethod
    def latent_shape(self, size: int | None) -> tuple[int, ...]:
        """Shape of one latent without its batch dimension.

        Args:
            size: Height and width in pixels; `None` means the model's own.

        Raises:
            ValueError: If the autoencoder cannot divide `size`.
        """

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """The conditioning of N prompts, one row each."""

    @abstractmethod
    def set_schedule(self, steps: int) -> None:
        """Set `timesteps` to a schedule of so many denoising steps."""

    @abstractmethod
    def initial(self, noise: Tensor) -> Tensor:
        """The first state of a trajectory, from standard normal noise of any shape."""

    @abstractmethod
    def predict(self, x_t: Tensor, position: Tensor, conditioning: Conditioning) -> Tensor:
        """The denoiser's prediction.

        Args:
            x_t: States, (B, *latent_shape).
            position: Where in the schedule each stands, (B,), 0 for noise.
            conditioning: B rows.
        """

    @abstractmethod
    def step(self, e: Tensor, position: int, x_t: Tensor) -> Tensor:
        """One denoising step without memory or noise, from `position` to the next.

        Args:
            e: Guided predictions, (B, *latent_shape).
            position: Where all of the states stand.
            x_t: The states.
        """
