"""How an attack learns: the denoising loss on pictures of the concept.

    || prediction(x_t, soft) - target ||^2,  x_t = alpha x_0 + sigma e

x_0 is the latent of a picture, e noise, and alpha, sigma and the target are those of the family's schedule, at a random
position. Only what is soft learns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderDC, AutoencoderKL
from PIL.Image import Image
from torch import Tensor, nn

from ...arguments import integer_from, number_in
from ...families import Family
from ...modes import evaluation
from ...streams import noise, stream
from .soft import Soft

_BATCH = 8
_RATE = number_in("above 0", lambda value: value > 0)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much an attack may learn.

    Attributes:
        steps: Updates, 1 or more.
        learning_rate: Of AdamW at the first update, above 0; it falls to 0 on a line. What is learned has the scale of
            token embeddings or of token states.
        batch_size: Pictures per update.
        positions: Denoising steps of the schedule whose positions are drawn.
        guidance_scale: For denoisers that take it as an input.
        seed: Of pictures, positions and noise.

    Raises:
        TypeError: If a value is not a number.
        ValueError: If it is out of range.
    """

    steps: int
    learning_rate: float
    batch_size: int = 4
    positions: int = 50
    guidance_scale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "positions"):
            integer_from(1)(name, getattr(self, name))
        _RATE("learning_rate", self.learning_rate)


def check_autoencoder(family: Family) -> None:
    """Refuse an autoencoder from which an attack cannot learn.

    Raises:
        TypeError: If it is of another kind than `AutoencoderKL` and `AutoencoderDC`.
    """
    if not isinstance(family.pipe.vae, AutoencoderKL | AutoencoderDC):
        kind = type(family.pipe.vae).__name__
        raise TypeError(f"An attack cannot learn from images with an {kind}; it must be an AutoencoderKL.")


@torch.no_grad()
def latents_of(family: Family, images: Sequence[Image]) -> Tensor:
    """Finished latents of images, (N, C, H, W), in the denoiser's type.

    Args:
        family: The pipeline's family.
        images: N images of one size (PIL).

    Raises:
        TypeError: If the autoencoder is of another kind than `AutoencoderKL` and `AutoencoderDC`.
        ValueError: If there is no image, or they differ in size.
    """
    if len({image.size for image in images}) != 1:
        raise ValueError(f"An attack learns from one or more images of one size, got {len(images)} images of several.")
    check_autoencoder(family)
    vae: Any = family.pipe.vae
    config, dtype, parts = vae.config, vae.dtype, []
    # Some autoencoders overflow in float16. To float32 and back changes no bit.
    upcast = dtype == torch.float16 and config.get("force_upcast")
    try:
        if upcast:
            vae.to(torch.float32)
        for start in range(0, len(images), _BATCH):
            pixels = family.pipe.image_processor.preprocess(list(images[start : start + _BATCH]))
            encoded = vae.encode(pixels.to(family.device, vae.dtype))
            z = encoded.latent_dist.mode() if "latent_dist" in encoded else encoded.latent
            parts.append((z - (config.get("shift_factor") or 0)) * config.scaling_factor)
    finally:
        if upcast:
            vae.to(dtype)
    return torch.cat(parts).to(family.dtype)


def learn(family: Family, soft: Soft, latents: Tensor, texts: Sequence[str], budget: Budget) -> None:
    """Learn from latents, in place.

    Args:
        family: The pipeline's family.
        soft: What learns.
        latents: Of the pictures, (N, C, H, W).
        texts: The prompts, one or more, that are used in turn.
        budget: How much.

    Raises:
        ValueError: If the loss becomes infinite.
    """
    schedule = family.schedule(budget.positions, tuple(latents.shape[1:]), budget.guidance_scale)
    optimizer = torch.optim.AdamW(soft.parameters.values(), budget.learning_rate)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 1 - i / budget.steps)
    with frozen(family), torch.enable_grad(), family.progress_bar("learning", budget.steps) as bar:
        for i in range(budget.steps):
            generator = stream(budget.seed, "attack", i)
            n = budget.batch_size
            chosen, position = (
                torch.randint(high, (n,), generator=generator, device="cpu")
                for high in (len(latents), budget.positions)
            )
            x_0 = latents[chosen.to(latents.device)]
            x_t, target = schedule.noised(x_0, noise(tuple(x_0.shape), generator).to(x_0.device), position)
            rows = soft.rows([texts[(i * n + k) % len(texts)] for k in range(n)])
            prediction = schedule.predict(x_t.to(latents.dtype), position, rows)
            # The sum, not the mean: in half precision its gradients do not vanish.
            loss = (prediction.float() - target).square().sum() / n
            if not loss.isfinite():
                raise ValueError(f"The loss in {family.dtype} is infinite; load the pipeline in bfloat16 or float32.")
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            falling.step()
            bar.update()


@contextmanager
def frozen(family: Family) -> Iterator[None]:
    """All models of the pipeline in evaluation mode, and none of their parameters with a gradient."""
    models = [part for part in family.pipe.components.values() if isinstance(part, nn.Module)]
    training = [parameter for model in models for parameter in model.parameters() if parameter.requires_grad]
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(evaluation(model))
        try:
            for parameter in training:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in training:
                parameter.requires_grad_(True)
