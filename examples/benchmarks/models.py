"""Pipelines to measure: the small model, and random weights of the published sizes, which need no download.

The text encoders of the random ones have the published width of their output and two layers: prompts are encoded before
the first update, so what is inside does not count.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from emoji_sd import WEIGHTS, load
from published import MODELS
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
)

SIZES = {"emoji_sd": 64, "SD 1.4": 512, "SDXL": 1024, "Flux.1 dev": 1024}
"""Height and width of the images in pixels."""

NAMES = tuple(SIZES)

_TOKENS = 77


def pipeline(name: str, device: str, dtype: torch.dtype) -> DiffusionPipeline:
    """A pipeline without autoencoder, except that of the small model."""
    if name == "emoji_sd":
        return load(dtype).to(device)
    torch.manual_seed(0)
    with torch.device(device):
        networks = {"SD 1.4": _sd, "SDXL": _sdxl, "Flux.1 dev": _flux}[name]()
        denoiser = _denoiser(name, device, dtype)
    for network in networks.values():
        if isinstance(network, torch.nn.Module):
            network.to(device, dtype).eval().requires_grad_(False)
    return _KINDS[name](vae=None, **networks, **denoiser)


_KINDS: dict[str, Any] = {
    "SD 1.4": StableDiffusionPipeline,
    "SDXL": StableDiffusionXLPipeline,
    "Flux.1 dev": FluxPipeline,
}


def _denoiser(name: str, device: str, dtype: torch.dtype) -> dict[str, Any]:
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # float32 weights of the largest would not fit
    try:
        model = MODELS[name].build(device, dtype)
    finally:
        torch.set_default_dtype(default)
    return {"transformer" if name == "Flux.1 dev" else "unet": model}


def _tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer", model_max_length=_TOKENS)


def _clip(width: int, kind: Any = CLIPTextModel) -> Any:
    tokens = _tokenizer()
    ids = {f"{name}_token_id": getattr(tokens, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "projection_dim": width, "num_hidden_layers": 2}
    return kind(CLIPTextConfig(vocab_size=len(tokens), max_position_embeddings=_TOKENS, **sizes, **ids))


def _ddim() -> DDIMScheduler:
    return DDIMScheduler.from_pretrained(WEIGHTS / "scheduler")


def _sd() -> dict[str, Any]:
    return {
        "text_encoder": _clip(768),
        "tokenizer": _tokenizer(),
        "scheduler": _ddim(),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def _sdxl() -> dict[str, Any]:
    return {
        "text_encoder": _clip(768),
        "text_encoder_2": _clip(1280, CLIPTextModelWithProjection),
        "tokenizer": _tokenizer(),
        "tokenizer_2": _tokenizer(),
        "scheduler": _ddim(),
    }


def _flux() -> dict[str, Any]:
    tokens = _tokenizer()
    sizes = {"d_model": 4096, "d_kv": 64, "d_ff": 64, "num_heads": 1, "num_layers": 2}
    return {
        "text_encoder": _clip(768),
        "text_encoder_2": T5EncoderModel(T5Config(vocab_size=len(tokens), feed_forward_proj="gated-gelu", **sizes)),
        "tokenizer": tokens,
        "tokenizer_2": tokens,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    }
