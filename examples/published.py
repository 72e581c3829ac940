"""The published models' denoisers, from their configurations alone: layers, parameters and memory of an erasure.

Run as `make published`, or `python examples/published.py`; writes four tables to standard output. Everything is
computed on PyTorch's meta device, which has shapes and no numbers, so nothing is downloaded and little memory is
needed. `--measure` runs one of them with random weights, and compares.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, get_args
from unittest.mock import patch

import torch
from diffusers import (
    AuraFlowTransformer2DModel,
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    QwenImageTransformer2DModel,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    WanTransformer3DModel,
    ZImageTransformer2DModel,
)
from diffusers.utils import logging
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from diffusers_esd.adapter import Adapter
from diffusers_esd.config import Group
from diffusers_esd.denoiser import base_layers
from diffusers_esd.families import FAMILIES, Family
from diffusers_esd.groups import Selection, select
from diffusers_esd.limits import Limits
from diffusers_esd.training.inputs import layer_width

GROUPS: tuple[Group, ...] = get_args(Group)
RANK = 16

CARDS = (8, 12, 16, 24, 48, 80)
"""Memory of graphics cards in GiB."""

LADDER = ("", "o", "og", "8og", "4og")
"""Sets of options, those that cost least first. o: the text encoders are away while the denoiser trains; g: gradient
checkpointing; 8 and 4: weights of the denoiser's Linear layers in int8 and in nf4, which have no CUDA graphs."""

_SHARE, _CONTEXT = 1.1, 2**30  # what temporary tensors add; what CUDA itself takes, in bytes
_USABLE = 0.98  # of a card's memory, which is a little less than its name says
_LINEAR = {"8": 1.0, "4": 4.5 / 8}  # bytes of a weight; nf4 has a scale in float32 for each block of 64


@dataclass(frozen=True)
class Published:
    """A model.

    Attributes:
        family: Name of its family.
        kind: Class of its denoiser.
        config: The denoiser's configuration, as published.
        inputs: Shapes of the denoiser's inputs for one image of the model's own size.
        others: Its other inputs.
    """

    family: str
    kind: Any
    config: dict[str, Any]
    inputs: dict[str, Any]
    others: dict[str, Any] = field(default_factory=dict)

    def build(self, device: str = "meta", dtype: torch.dtype = torch.float16) -> Any:
        """The denoiser; on the meta device it has no numbers."""
        with torch.device(device):
            return self.kind(**self.config).to(dtype).eval().requires_grad_(False)

    def arguments(self, device: str = "meta", dtype: torch.dtype = torch.float16) -> dict[str, Any]:
        """Keyword arguments for a call of the denoiser."""

        def tensors(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: tensors(inner) for key, inner in value.items()}
            if isinstance(value, list):
                return [tensors(inner) for inner in value]
            return torch.zeros(value, device=device, dtype=dtype)

        return tensors(self.inputs) | self.others

    @property
    def family_class(self) -> type[Family]:
        """The class of its family."""
        (family,) = [family for family in FAMILIES if family.__name__ == self.family]
        return family

    def selection(self, denoiser: Any, group: Group) -> Selection:
        """The layers of a group."""
        modules = [name for name, _ in denoiser.named_modules()]
        patterns = {"text_layers": self.family_class.text_layers, "text_inputs": self.family_class.text_inputs}
        return select(base_layers(denoiser), modules, group, **patterns)


MODELS = {
    "SD 1.4": Published(
        "StableDiffusion",
        UNet2DConditionModel,
        {"sample_size": 64, "cross_attention_dim": 768},
        {"sample": (1, 4, 64, 64), "timestep": (1,), "encoder_hidden_states": (1, 77, 768)},
    ),
    "SD 2.1": Published(
        "StableDiffusion",
        UNet2DConditionModel,
        {
            "sample_size": 96,
            "cross_attention_dim": 1024,
            "attention_head_dim": (5, 10, 20, 20),
            "use_linear_projection": True,
        },
        {"sample": (1, 4, 96, 96), "timestep": (1,), "encoder_hidden_states": (1, 77, 1024)},
    ),
    "SDXL": Published(
        "StableDiffusionXL",
        UNet2DConditionModel,
        {
            "sample_size": 128,
            "cross_attention_dim": 2048,
            "attention_head_dim": (5, 10, 20),
            "use_linear_projection": True,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        {
            "sample": (1, 4, 128, 128),
            "timestep": (1,),
            "encoder_hidden_states": (1, 77, 2048),
            "added_cond_kwargs": {"text_embeds": (1, 1280), "time_ids": (1, 6)},
        },
    ),
    "SD3 medium": Published(
        "StableDiffusion3",
        SD3Transformer2DModel,
        {
            "sample_size": 128,
            "num_layers": 24,
            "attention_head_dim": 64,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "caption_projection_dim": 1536,
            "pooled_projection_dim": 2048,
            "pos_embed_max_size": 192,
        },
        {
            "hidden_states": (1, 16, 128, 128),
            "timestep": (1,),
            "encoder_hidden_states": (1, 333, 4096),
            "pooled_projections": (1, 2048),
        },
    ),
    "Flux.1 dev": Published(
        "Flux",
        FluxTransformer2DModel,
        {"guidance_embeds": True},
        {
            "hidden_states": (1, 4096, 64),
            "timestep": (1,),
            "guidance": (1,),
            "encoder_hidden_states": (1, 512, 4096),
            "pooled_projections": (1, 768),
            "txt_ids": (512, 3),
            "img_ids": (4096, 3),
        },
    ),
    "AuraFlow": Published(
        "AuraFlow",
        AuraFlowTransformer2DModel,
        {"sample_size": 64},
        {"hidden_states": (1, 4, 128, 128), "timestep": (1,), "encoder_hidden_states": (1, 256, 2048)},
    ),
    "Sana 1.6B": Published(
        "Sana",
        SanaTransformer2DModel,
        {},
        {
            "hidden_states": (1, 32, 32, 32),
            "timestep": (1,),
            "encoder_hidden_states": (1, 300, 2304),
            "encoder_attention_mask": (1, 300),
        },
    ),
    "Qwen-Image": Published(
        "QwenImage",
        QwenImageTransformer2DModel,
        {},
        {
            "hidden_states": (1, 4096, 64),
            "timestep": (1,),
            "encoder_hidden_states": (1, 512, 3584),
            "encoder_hidden_states_mask": (1, 512),
        },
        {"img_shapes": [[(1, 64, 64)]]},
    ),
    "Z-Image": Published(
        "ZImage",
        ZImageTransformer2DModel,
        {},
        {"x": [(16, 1, 128, 128)], "t": (1,), "cap_feats": [(512, 2560)]},
    ),
    "FLUX.2 dev": Published(
        "Flux2",
        Flux2Transformer2DModel,
        {},
        {
            "hidden_states": (1, 4096, 128),
            "timestep": (1,),
            "guidance": (1,),
            "encoder_hidden_states": (1, 512, 15360),
            "txt_ids": (512, 4),
            "img_ids": (4096, 4),
        },
    ),
    "FLUX.2 Klein 4B": Published(
        "Flux2",
        Flux2Transformer2DModel,
        {
            "num_layers": 5,
            "num_single_layers": 20,
            "num_attention_heads": 24,
            "joint_attention_dim": 7680,
            "guidance_embeds": False,
        },
        {
            "hidden_states": (1, 4096, 128),
            "timestep": (1,),
            "encoder_hidden_states": (1, 512, 7680),
            "txt_ids": (512, 4),
            "img_ids": (4096, 4),
        },
    ),
    "Kolors": Published(
        "Kolors",
        UNet2DConditionModel,
        {
            "sample_size": 128,
            "cross_attention_dim": 2048,
            "encoder_hid_dim": 4096,
            "encoder_hid_dim_type": "text_proj",
            "attention_head_dim": (5, 10, 20),
            "use_linear_projection": True,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 5632,
        },
        {
            "sample": (1, 4, 128, 128),
            "timestep": (1,),
            "encoder_hidden_states": (1, 256, 4096),
            "added_cond_kwargs": {"text_embeds": (1, 4096), "time_ids": (1, 6)},
        },
    ),
    "Wan 2.1 1.3B": Published(
        "Wan",
        WanTransformer3DModel,
        {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
        {"hidden_states": (1, 16, 21, 60, 104), "timestep": (1,), "encoder_hidden_states": (1, 512, 4096)},
    ),
}


TEXT_ENCODERS = {
    "SD 1.4": 123,
    "SD 2.1": 340,
    "SDXL": 123 + 695,
    "SD3 medium": 123 + 695 + 4762,
    "Flux.1 dev": 123 + 4762,
    "AuraFlow": 1224,
    "Sana 1.6B": 2614,
    "Qwen-Image": 8292,
    "Z-Image": 4022,
    "FLUX.2 dev": 24011,
    "FLUX.2 Klein 4B": 4022,
    "Kolors": 6244,
    "Wan 2.1 1.3B": 5681,
}
"""Millions of parameters of a model's text encoders: CLIP and OpenCLIP, T5 1.1 XXL, Pile-T5 XL, Gemma 2 2B,
Qwen2.5-VL 7B, Qwen3 4B, Mistral Small 3.2 24B, ChatGLM3 6B, UMT5 XXL."""


def lora_parameters(denoiser: Any, selection: Selection, rank: int = RANK) -> int:
    """Parameters of an adapter: `rank * (inputs + outputs)` of each layer, a convolution's inputs being its patches."""
    weights = [denoiser.get_submodule(name).weight for name in selection.names]
    return sum(rank * (weight[0].numel() + weight.shape[0]) for weight in weights)


@dataclass
class Saved:
    """Bytes that autograd keeps for the gradient, without parameters, which are in memory in any case."""

    known: set[int]
    kept: list[Tensor] = field(default_factory=list)
    bytes: int = 0

    def count(self, tensor: Tensor) -> Tensor:
        """Count a tensor's storage once."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self.known:
            self.known.add(storage._cdata)
            self.kept.append(tensor)  # keeps the storage alive, so that its address is not used again
            self.bytes += storage.nbytes()
        return tensor

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count what is saved inside."""
        with saved_tensors_hooks(self.count, lambda tensor: tensor):
            yield


class _FlashAttention(torch.autograd.Function):
    """What a fused attention keeps: queries, keys, values, and its output."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out)
        return out


def activation_bytes(model: Published, group: Group, *, checkpointing: bool) -> int:
    """Bytes that one image's training needs for activations, in half precision with a fused attention.

    With checkpointing: the activations between blocks, and those of the largest block.
    """
    denoiser = model.build()
    adapter = Adapter(denoiser, "esd", model.selection(denoiser, group), rank=RANK, lora_alpha=RANK, seed=0)
    parameters = {parameter.untyped_storage()._cdata for parameter in denoiser.parameters()}
    outer, blocks = Saved(set(parameters)), [0]

    def block(module: Callable[..., Any], *arguments: Any) -> Any:
        for argument in arguments:
            if isinstance(argument, Tensor):
                outer.count(argument)
        inner = Saved(set(outer.known))
        with inner.watching():
            result = module(*arguments)
        blocks.append(inner.bytes)
        return result

    def attention(query: Tensor, key: Tensor, value: Tensor, *arguments: Any, **options: Any) -> Tensor:
        return _FlashAttention.apply(query, key, value)

    if checkpointing:
        denoiser.enable_gradient_checkpointing(block)
    with adapter.training(), patch.object(functional, "scaled_dot_product_attention", attention), outer.watching():
        denoiser(**model.arguments(), return_dict=False)
    return outer.bytes + max(blocks)


def layers_table() -> str:
    """Layers and parameters of every group."""
    lines = [
        "| model | denoiser | " + " | ".join(f"`{group}`" for group in GROUPS) + " |",
        "|---" * (len(GROUPS) + 2) + "|",
    ]
    for name, model in MODELS.items():
        denoiser = model.build()
        size = sum(parameter.numel() for parameter in denoiser.parameters())
        cells = []
        for group in GROUPS:
            selection = model.selection(denoiser, group)
            cells.append(f"{len(selection.names)} / {lora_parameters(denoiser, selection) / 1e6:.1f} M")
        lines.append(f"| {name} | {size / 1e6:,.0f} M | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def null_space_table(group: Group = "esd-u") -> str:
    """What the null space costs: evaluations, and inputs of layers, in 16 bits."""
    lines = ["| model | layers | widest | evaluations | GiB on the CPU |", "|---" * 5 + "|"]
    limits = Limits()
    trajectories = limits.trajectories + limits.concept_trajectories
    for name, model in MODELS.items():
        denoiser = model.build()
        layers = model.selection(denoiser, group).confinable().names
        text = model.family_class.text_states
        widths = [layer_width(denoiser.get_submodule(layer)) for layer in layers if not re.match(text, layer)]
        size = 2 * sum(widths) * limits.samples * limits.steps * trajectories
        lines.append(f"| {name} | {len(widths)} | {max(widths)} | {limits.steps * trajectories} | {size / 2**30:.1f} |")
    return "\n".join(lines)


@dataclass(frozen=True)
class Needs:
    """Bytes of a training in its parts, batch 1, at the model's own size.

    Attributes:
        linear: Parameters of the denoiser's Linear layers, which can be quantised.
        others: Its other parameters.
        adapter: Parameters of the adapter.
        activations: Bytes without and with gradient checkpointing.
        text: Parameters of the text encoders.
        is_captured: Whether iterations run as CUDA graphs, if the denoiser is not quantised.
    """

    linear: int
    others: int
    adapter: int
    activations: tuple[int, int]
    text: int
    is_captured: bool = True

    def peak(self, options: str) -> float:
        """Bytes with a set of options of `LADDER`.

        Weights have 16 bits unless they are quantised. Adapter, gradients and Adam's two averages are in float32. CUDA
        graphs have activations of their own, beside those of the pass before they are recorded. With "o", text encoders
        and denoiser are not in memory together, except a denoiser in nf4, which is quantised on the GPU.
        """
        each = next((size for mark, size in _LINEAR.items() if mark in options), 2.0)
        text, denoiser = 2 * self.text, each * self.linear + 2 * self.others
        graphs = self.is_captured and not set(_LINEAR) & set(options)
        activations = self.activations["g" in options] * (2 if graphs else 1)
        training = denoiser + 16 * self.adapter + activations
        encoding = text + denoiser if "4" in options else text
        return _SHARE * (max(encoding, training) if "o" in options else text + training) + _CONTEXT

    def smallest(self, card: float) -> str:
        """The first set of options that fits on a card of so many GiB, in words; a dash if none does."""
        fitting = [options for options in LADDER if self.peak(options) <= _USABLE * card * 2**30]
        return "–" if not fitting else f"`{fitting[0]}`" if fitting[0] else "as is"


@cache
def needs(name: str, group: Group = "esd-u") -> Needs:
    """What a published model needs."""
    model = MODELS[name]
    denoiser = model.build()
    size = sum(parameter.numel() for parameter in denoiser.parameters())
    linear = sum(layer.weight.numel() for layer in denoiser.modules() if isinstance(layer, nn.Linear))
    lora = lora_parameters(denoiser, model.selection(denoiser, group))
    kept = (
        activation_bytes(model, group, checkpointing=False),
        activation_bytes(model, group, checkpointing=True),
    )
    is_captured = model.family_class.can_be_captured
    return Needs(linear, size - linear, lora, kept, TEXT_ENCODERS[name] * 10**6, is_captured)


def fitting_table(group: Group = "esd-u") -> str:
    """The options with which a training fits on a card."""
    lines = ["| model | " + " | ".join(f"{card}" for card in CARDS) + " |", "|---" * (len(CARDS) + 1) + "|"]
    for name in MODELS:
        of_model = needs(name, group)
        lines.append(f"| {name} | " + " | ".join(of_model.smallest(card) for card in CARDS) + " |")
    return "\n".join(lines)


def memory_table(group: Group = "esd-u") -> str:
    """Gigabytes of one training, batch 1."""
    lines = [
        "| model | denoiser, float16 | adapter | gradients | Adam | 8-bit Adam | activations | with checkpointing |",
        "|---" * 8 + "|",
    ]
    for name in MODELS:
        of_model = needs(name, group)
        size, lora = of_model.linear + of_model.others, of_model.adapter
        parts = [2 * size, 4 * lora, 4 * lora, 8 * lora, 2 * lora, *of_model.activations]
        lines.append(f"| {name} | " + " | ".join(f"{part / 2**30:.2f}" for part in parts) + " |")
    return "\n".join(lines)


def measured(name: str, group: Group = "esd-u", device: str = "cpu") -> tuple[int, int]:
    """Bytes of activations: the computed number, and what PyTorch has allocated and not freed after a forward pass."""
    model, dtype = MODELS[name], torch.bfloat16 if device == "cpu" else torch.float16
    denoiser = model.build(device, dtype)
    adapter = Adapter(denoiser, "esd", model.selection(denoiser, group), rank=RANK, lora_alpha=RANK, seed=0)
    with adapter.training():
        arguments = model.arguments(device, dtype)
        if device == "cpu":
            with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
                e = denoiser(**arguments, return_dict=False)[0]
            held = sum(event.self_cpu_memory_usage for event in profiler.events())
        else:
            before = torch.cuda.memory_allocated()
            e = denoiser(**arguments, return_dict=False)[0]
            held = torch.cuda.memory_allocated() - before
        assert e.requires_grad
    return activation_bytes(model, group, checkpointing=False), held


def main() -> None:
    """All tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", choices=list(MODELS), help="compare with a run of random weights")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where")
    options = parser.parse_args()
    logging.set_verbosity_error()
    if options.measure:
        computed, held = measured(options.measure, device=options.device)
        print(f"{options.measure}: computed {computed / 2**30:.2f} GiB, measured {held / 2**30:.2f} GiB")
        return
    print(f"Layers / parameters of an adapter of rank {RANK}:\n\n{layers_table()}\n")
    print(f"Null space of `esd-u`:\n\n{null_space_table()}\n")
    print(f"GiB to train `esd-u`, rank {RANK}, batch 1, at the model's own size:\n\n{memory_table()}\n")
    print(f"Options with which that fits on cards of so many GiB:\n\n{fitting_table()}")


if __name__ == "__main__":
    main()
