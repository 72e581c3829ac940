"""Train emoji_sd's denoiser and text encoder together, on the latents of the trained autoencoder.

The loss is the mean squared error of the noise prediction.
`python -m emoji_sd.train_diffusion`, run from `examples/` after `emoji_sd.train_autoencoder`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from .latents import Latents
from .loop import Batch, arguments, train
from .preset import Preset
from .text import text_encoder, tokenizer


def denoiser(preset: Preset) -> UNet2DConditionModel:
    """The untrained denoiser."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=8,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=preset.denoiser_widths,
        layers_per_block=1,
        cross_attention_dim=preset.text_width,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def scheduler() -> DDIMScheduler:
    """Stable Diffusion 1.x's noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def pipeline(
    vae: AutoencoderKL,
    text: CLIPTextModel,
    tokens: CLIPTokenizer,
    unet: UNet2DConditionModel,
    noise_schedule: DDIMScheduler,
) -> StableDiffusionPipeline:
    """The trained networks as a pipeline."""
    vae.register_to_config(_name_or_path="emoji_sd")  # else its folder is recorded
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokens,
        unet=unet.to(memory_format=torch.contiguous_format),
        scheduler=noise_schedule,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Train, then save the pipeline in float16."""
    options = arguments(__doc__, "diffusion", argv)
    preset = options.preset
    vae = AutoencoderKL.from_pretrained(options.output / "vae")
    tokens, noise_schedule = tokenizer(preset), scheduler()
    latents = Latents(options, vae, tokens)
    torch.manual_seed(options.seed)
    unet = denoiser(preset).to(memory_format=torch.channels_last)
    model = nn.ModuleDict({"unet": unet, "text": text_encoder(tokens, preset.text_width, preset.text_layers)})

    def batch(generator: torch.Generator) -> Batch:
        text, x_0, noise = latents.batch(generator)
        t = torch.randint(noise_schedule.config.num_train_timesteps, (len(x_0),), generator=generator).to(x_0.device)
        return text, noise_schedule.add_noise(x_0, noise, t), t, noise

    def loss(text: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        e = model["unet"](x_t, t, model["text"](text).last_hidden_state).sample
        return (e - noise).square().mean()

    train("diffusion", model, batch, loss, options)
    pipe = pipeline(vae, model["text"], tokens, model["unet"], noise_schedule)
    pipe.to(dtype=torch.float16).save_pretrained(options.output)


if __name__ == "__main__":
    main()
