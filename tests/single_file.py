"""A model in a single file, as other tools use it."""

from __future__ import annotations

import re
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from tiny import tiny_xl
from transformers import CLIPTextModelWithProjection

from diffusers_esd.kohya import sgm_names

# diffusers' names of an autoencoder's layers, and Stability's own.
_AUTOENCODER = (
    (r"encoder\.down_blocks\.(\d)\.resnets\.(\d)", r"encoder.down.\1.block.\2"),
    (r"encoder\.down_blocks\.(\d)\.downsamplers\.0", r"encoder.down.\1.downsample"),
    (r"decoder\.up_blocks\.0\.resnets\.(\d)", r"decoder.up.1.block.\1"),
    (r"decoder\.up_blocks\.1\.resnets\.(\d)", r"decoder.up.0.block.\1"),
    (r"decoder\.up_blocks\.0\.upsamplers\.0", "decoder.up.1.upsample"),
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
    (r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1"),
    (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
    (r"conv_shortcut", "nin_shortcut"),
    (r"conv_norm_out", "norm_out"),
)


_LAYERS, _RESBLOCKS = "encoder.layers", "transformer.resblocks"
_OPEN_CLIP = (
    (r"encoder\.layers", _RESBLOCKS),
    (r"layer_norm(\d)", r"ln_\1"),
    (r"mlp\.fc1", "mlp.c_fc"),
    (r"mlp\.fc2", "mlp.c_proj"),
    (r"self_attn\.out_proj", "attn.out_proj"),
    (r"final_layer_norm", "ln_final"),
    (r"embeddings\.token_embedding", "token_embedding"),
    (r"embeddings\.position_embedding\.weight", "positional_embedding"),
)


def original(pipe: Any) -> dict[str, torch.Tensor]:
    """The weights of a Stable Diffusion 1 or XL under the names of Stability's own code, as a single file has them."""
    unet = pipe.unet.state_dict()
    names = {**sgm_names({key.rpartition(".")[0]: None for key in unet}), "conv_norm_out": "out.0"}
    file: dict[str, torch.Tensor] = {}
    for key, value in unet.items():
        layer, _, kind = key.rpartition(".")
        name = names[layer]
        if ".resnets." in layer:
            name = name.replace(".norm1", ".in_layers.0").replace(".norm2", ".out_layers.0")
        file[f"model.diffusion_model.{name}.{kind}"] = value
    for key, value in pipe.vae.state_dict().items():
        name = key
        for pattern, other in _AUTOENCODER:
            name = re.sub(pattern, other, name)
        is_matrix = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", name)
        file[f"first_stage_model.{name}"] = value[:, :, None, None] if is_matrix else value
    is_xl = hasattr(pipe, "text_encoder_2")
    first = "conditioner.embedders.0" if is_xl else "cond_stage_model"
    for key, value in pipe.text_encoder.state_dict().items():
        file[f"{first}.transformer.text_model.{key.removeprefix('text_model.')}"] = value
    if is_xl:
        file |= {
            f"conditioner.embedders.1.model.{key}": value for key, value in _open_clip(pipe.text_encoder_2).items()
        }
    return {key: value.clone().contiguous() for key, value in file.items()}


def _open_clip(encoder: Any) -> dict[str, torch.Tensor]:
    """The weights of a text encoder under OpenCLIP's names."""
    state = {key.removeprefix("text_model."): value for key, value in encoder.state_dict().items()}
    weights = {"text_projection": state.pop("text_projection.weight").T}
    for key, value in state.items():
        for pattern, name in _OPEN_CLIP:
            key = re.sub(pattern, name, key)
        if match := re.fullmatch(r"(.*)\.self_attn\.q_proj\.(weight|bias)", key):
            layer, kind = match.groups()
            parts = [state[f"{layer.replace(_RESBLOCKS, _LAYERS)}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            weights[f"{layer}.attn.in_proj_{kind}"] = torch.cat(parts)
        elif ".self_attn." not in key and "position_ids" not in key:
            weights[key] = value
    return weights


def separable_xl() -> StableDiffusionXLPipeline:
    """Stable Diffusion XL whose text encoders differ in width: that is how diffusers tells them apart in a file."""
    pipe = tiny_xl()
    config = type(pipe.text_encoder_2.config)(**{**pipe.text_encoder_2.config.to_dict(), "hidden_size": 32})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        second = CLIPTextModelWithProjection(config).eval()
        unet = UNet2DConditionModel.from_config({**pipe.unet.config, "cross_attention_dim": 16 + 32}).eval()
    return StableDiffusionXLPipeline(**{**pipe.components, "text_encoder_2": second, "unet": unet})
