"""Pipelines to measure: the small model, and random weights of the published sizes, which need no download.

The text encoders of the random ones have the published width of their output and two layers: prompts are encoded before
the first update, so what is inside does not count for its time. Where memory is measured they are whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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


def pipeline(name: str, device: str, dtype: torch.dtype, *, whole_text_encoders: bool = False) -> DiffusionPipeline:
    """A pipeline without autoencoder, except that of the small model.

    Args:
        name: Name in `NAMES`.
        device: Where its random weights are made, so that they are never in the CPU's memory as well.
        dtype: Their type.
        whole_text_encoders: Whether the text encoders have the published number of layers and of tokens.
    """
    if name == "emoji_sd":
        return load(dtype).to(device)
    torch.manual_seed(0)
    with torch.device(device), _default(dtype):
        networks = {"SD 1.4": _sd, "SDXL": _sdxl, "Flux.1 dev": _flux}[name](whole_text_encoders)
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


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    """Weights made in this type: those of the largest model would not fit in float32."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(default)


def _denoiser(name: str, device: str, dtype: torch.dtype) -> dict[str, Any]:
    model = MODELS[name].build(device, dtype)
    return {"transformer" if name == "Flux.1 dev" else "unet": model}


def _tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer", model_max_length=_TOKENS)


def _clip(width: int, kind: Any = CLIPTextModel, *, layers: int | None) -> Any:
    """A CLIP with the published number of layers and tokens; with `None`, two layers and the small model's tokens."""
    tokens = _tokenizer()
    ids = {f"{name}_token_id": getattr(tokens, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "projection_dim": width}
    sizes |= {"num_hidden_layers": layers or 2, "vocab_size": len(tokens) if layers is None else 49408}
    return kind(CLIPTextConfig(max_position_embeddings=_TOKENS, **sizes, **ids))


def _ddim() -> DDIMScheduler:
    return DDIMScheduler.from_pretrained(WEIGHTS / "scheduler")


def _sd(is_whole: bool) -> dict[str, Any]:
    return {
        "text_encoder": _clip(768, layers=12 if is_whole else None),
        "tokenizer": _tokenizer(),
        "scheduler": _ddim(),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def _sdxl(is_whole: bool) -> dict[str, Any]:
    return {
        "text_encoder": _clip(768, layers=12 if is_whole else None),
        "text_encoder_2": _clip(1280, CLIPTextModelWithProjection, layers=32 if is_whole else None),
        "tokenizer": _tokenizer(),
        "tokenizer_2": _tokenizer(),
        "scheduler": _ddim(),
    }


def _flux(is_whole: bool) -> dict[str, Any]:
    tokens = _tokenizer()
    sizes = {"d_ff": 64, "num_heads": 1, "num_layers": 2, "vocab_size": len(tokens)}
    if is_whole:
        sizes = {"d_ff": 10240, "num_heads": 64, "num_layers": 24, "vocab_size": 32128}
    t5 = T5Config(d_model=4096, d_kv=64, feed_forward_proj="gated-gelu", **sizes)
    return {
        "text_encoder": _clip(768, layers=12 if is_whole else None),
        "text_encoder_2": T5EncoderModel(t5),
        "tokenizer": tokens,
        "tokenizer_2": tokens,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    }
