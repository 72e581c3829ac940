"""Pipelines of the real classes at small size, with random weights."""

from __future__ import annotations

from functools import cache

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from emoji_sd.train_diffusion import LENGTH, tokenizer
from peft import LoraConfig
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

tiny_tokenizer = cache(tokenizer)


def tiny_unet(**changes: object) -> UNet2DConditionModel:
    """A U-Net with every kind of layer that Stable Diffusion's has, in evaluation mode."""
    options = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
        **changes,
    }
    return UNet2DConditionModel(**options).eval()


def text_encoder(tokens: CLIPTokenizer) -> CLIPTextModel:
    """A text encoder whose prompts are far enough apart for a random U-Net to tell them apart."""
    config = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    model = CLIPTextModel(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "token_embedding" in name:
                parameter.mul_(50)
    return model.eval()


def tiny_pipeline(
    prediction_type: str = "epsilon", seed: int = 0, unet: UNet2DConditionModel | None = None
) -> StableDiffusionPipeline:
    """A `StableDiffusionPipeline` of 16 px pictures and 8 x 8 latents; the same seed gives the same weights."""
    tokens = tiny_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = unet if unet is not None else tiny_unet()
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 8),
            latent_channels=4,
            norm_num_groups=4,
            sample_size=16,
        ).eval()
        text = text_encoder(tokens)
    # Random cross-attention is faint; louder values make prompts matter.
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if "attn2.to_v" in name or "attn2.to_out.0.weight" in name:
                parameter.mul_(4)
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokens,
        unet=unet,
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type=prediction_type,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def style_adapter(pipe: StableDiffusionPipeline, name: str = "style", scale: float = 0.6) -> None:
    """Give a pipeline a LoRA of its user, active, on layers of both kinds of attention."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_k"], init_lora_weights=False)
        pipe.unet.add_adapter(config, adapter_name=name)
    pipe.set_adapters([name], [scale])


def latents(pipe: StableDiffusionPipeline, prompt: str = "a cat", steps: int = 2, seed: int = 0) -> Tensor:
    """What the pipeline denoises, before the autoencoder."""
    generator = torch.Generator().manual_seed(seed)
    output = pipe(prompt, num_inference_steps=steps, guidance_scale=4.0, generator=generator, output_type="latent")
    return output.images
