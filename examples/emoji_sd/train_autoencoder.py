"""Train emoji_sd's AutoencoderKL: 64 px images to 8 x 8 latents of 8 channels and back.

The loss is the mean absolute error of pixels and of their differences to the right and below (edges are what a
blurred image lacks), with a small Kullback-Leibler term. Latents are sampled, so the decoder stays sharp on
latents that are a little off, as a denoiser's are. `python -m emoji_sd.train_autoencoder`, run from `examples/`.
Every preset has this autoencoder.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import AutoencoderKL

from .data import SIZE, to_model
from .loop import Batch, arguments, images, train

LATENTS = 8
"""Channels of the latents."""


def build() -> AutoencoderKL:
    """The untrained autoencoder."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 128),
        layers_per_block=1,
        latent_channels=LATENTS,
        norm_num_groups=8,
        sample_size=SIZE,
    )


def edges(pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Differences of neighbouring pixels, to the right and below."""
    return pictures.diff(dim=-1), pictures.diff(dim=-2)


def main(argv: Sequence[str] | None = None) -> None:
    """Train, set the latents' scale, save."""
    options = arguments(__doc__, "autoencoder", argv)
    data = images(options)["pictures"]
    torch.manual_seed(options.seed)
    vae = build().to(memory_format=torch.channels_last)

    def batch(generator: torch.Generator) -> Batch:
        index = torch.randint(len(data), (options.batch,), generator=generator)
        x = to_model(data[index].to(options.device)).contiguous(memory_format=torch.channels_last)
        return x, torch.randn((options.batch, LATENTS, SIZE // 8, SIZE // 8), generator=generator).to(options.device)

    def loss(x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.mean + posterior.std * noise).sample
        pixels = (y - x).abs().mean()
        lines = sum((a - b).abs().mean() for a, b in zip(edges(y), edges(x), strict=True))
        return pixels + lines + 1e-6 * posterior.kl().mean()

    train("autoencoder", vae, batch, loss, options)
    with torch.no_grad():
        latents = [vae.encode(to_model(part.to(options.device))).latent_dist.mean for part in data[::7].split(64)]
    vae.register_to_config(scaling_factor=round(1 / torch.cat(latents).std().item(), 5))
    vae.to(dtype=torch.float16, memory_format=torch.contiguous_format).save_pretrained(options.output / "vae")


if __name__ == "__main__":
    main()
