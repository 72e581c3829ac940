"""Pipelines of the real classes at small size, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from emoji_sd import WEIGHTS
from emoji_sd.text import LENGTH
from peft import LoraConfig
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Metaspace, Whitespace
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from torch.nn import Module
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from diffusers_esd.training.graphs import Graphs


@cache
def tiny_tokenizer() -> CLIPTokenizer:
    """The small model's: its words are whole, and the same in every process."""
    return CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer")


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


def text_encoder(tokens: CLIPTokenizer, kind: type = CLIPTextModel) -> CLIPTextModel | CLIPTextModelWithProjection:
    """A text encoder whose prompts are far enough apart for a random denoiser to tell them apart."""
    config = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        projection_dim=16,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    return louder(kind(config), ("token_embedding",), 50).eval()


@cache
def t5_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words of the small model's vocabulary, written as T5 writes them."""
    words = sorted(token.removesuffix("</w>") for token in tiny_tokenizer().get_vocab() if token.endswith("</w>"))
    vocabulary = {token: i for i, token in enumerate(["<pad>", "</s>", "<unk>", *[f"▁{word}" for word in words]])}
    tokens = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokens.pre_tokenizer = Metaspace()
    tokens.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=16
    )


@cache
def unmarked_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens do not tell whole words from parts."""
    words = sorted(token.removesuffix("</w>") for token in tiny_tokenizer().get_vocab() if token.endswith("</w>"))
    vocabulary = {token: i for i, token in enumerate(["<pad>", "</s>", "<unk>", *dict.fromkeys(words)])}
    tokens = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokens.pre_tokenizer = Whitespace()
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokens, **special, model_max_length=LENGTH)


def t5_encoder() -> T5EncoderModel:
    """A T5 of one layer, (tokens, 32)."""
    config = T5Config(vocab_size=len(t5_tokenizer()), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return louder(T5EncoderModel(config), ("shared",), 5).eval()


def louder(model: Module, names: tuple[str, ...], factor: float) -> Any:
    """A model with some parameters multiplied: at random they are faint, and prompts would not matter."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in names):
                parameter.mul_(factor)
    return model


def autoencoder(channels: int = 4) -> AutoencoderKL:
    """Pictures of 16 px, latents of 8 x 8."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=16,
    ).eval()


def seeded(build: Callable[..., Any]) -> Callable[..., Any]:
    """The same seed gives the same weights."""

    @wraps(build)
    def wrapper(*arguments: Any, seed: int = 0, **options: Any) -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            pipe = build(*arguments, **options)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return wrapper


BETAS = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "timestep_spacing": "leading",
}


@seeded
def tiny_pipeline(
    prediction_type: str = "epsilon", unet: UNet2DConditionModel | None = None
) -> StableDiffusionPipeline:
    """Stable Diffusion 1.x or, with `v_prediction`, 2.x."""
    unet = unet if unet is not None else tiny_unet()
    return StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=text_encoder(tiny_tokenizer()),
        tokenizer=tiny_tokenizer(),
        unet=louder(unet, ("attn2.to_v", "attn2.to_out.0.weight"), 4),
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, prediction_type=prediction_type, **BETAS),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@seeded
def tiny_xl(force_zeros: bool = True) -> StableDiffusionXLPipeline:
    """Stable Diffusion XL with its Euler scheduler."""
    unet = tiny_unet(
        cross_attention_dim=32,
        transformer_layers_per_block=(1, 2),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=16 + 6 * 8,
        use_linear_projection=True,
    )
    tokens = tiny_tokenizer()
    return StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=text_encoder(tokens),
        text_encoder_2=text_encoder(tokens, CLIPTextModelWithProjection),
        tokenizer=tokens,
        tokenizer_2=tokens,
        unet=louder(unet, ("attn2.to_v", "attn2.to_out.0.weight"), 4),
        scheduler=EulerDiscreteScheduler(**BETAS),
        force_zeros_for_empty_prompt=force_zeros,
        add_watermarker=False,
    )


@seeded
def tiny_sd3(dual: bool = False, **scheduler: Any) -> StableDiffusion3Pipeline:
    """Stable Diffusion 3 or, with `dual` attention, 3.5."""
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        pos_embed_max_size=8,
        dual_attention_layers=(0,) if dual else (),
        qk_norm="rms_norm" if dual else None,
    ).eval()
    tokens = tiny_tokenizer()
    return StableDiffusion3Pipeline(
        transformer=louder(transformer, ("attn.add_v_proj.weight", "attn.to_out.0.weight"), 10),
        vae=autoencoder(),
        text_encoder=text_encoder(tokens, CLIPTextModelWithProjection),
        tokenizer=tokens,
        text_encoder_2=text_encoder(tokens, CLIPTextModelWithProjection),
        tokenizer_2=tokens,
        text_encoder_3=t5_encoder(),
        tokenizer_3=t5_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **scheduler}),
    )


@seeded
def tiny_flux(guidance_embeds: bool = True) -> FluxPipeline:
    """Flux dev or, without the guidance embedding, schnell."""
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 6, 6),
        guidance_embeds=guidance_embeds,
    ).eval()
    tokens = tiny_tokenizer()
    pipe = FluxPipeline(
        transformer=louder(transformer, ("attn.add_v_proj.weight", "attn.to_out.0.weight"), 10),
        vae=autoencoder(),
        text_encoder=text_encoder(tokens),
        tokenizer=tokens,
        text_encoder_2=t5_encoder(),
        tokenizer_2=t5_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=guidance_embeds),
    )
    pipe.default_sample_size = 8
    return pipe


@seeded
def tiny_aura_flow() -> AuraFlowPipeline:
    """AuraFlow, with T5 in place of its multilingual kin."""
    transformer = AuraFlowTransformer2DModel(
        sample_size=8,
        num_mmdit_layers=2,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pos_embed_max_size=64,
    ).eval()
    return AuraFlowPipeline(
        transformer=louder(transformer, ("attn.add_v_proj.weight", "attn.to_out.0.weight"), 10),
        vae=autoencoder(),
        text_encoder=t5_encoder(),
        tokenizer=t5_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
    )


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


def not_captured() -> Graphs:
    """What networks are given where nothing is captured."""
    return Graphs(torch.device("cpu"), (), "a test")
