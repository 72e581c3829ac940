"""A pipeline's denoiser as its user has it: what is on it, what is refused, and how it is put back.

PEFT activates a new adapter alone, makes every active adapter trainable and freezes the base: `UserState` notes what
was and puts it back. PEFT is touched here and in `adapter`, nowhere else.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from .config import check_adapter_name

Denoiser = Any
"""A diffusers model that takes adapters: an `nn.Module` with `ModelMixin` and `PeftAdapterMixin`."""


# Projections that fusing makes and unfusing leaves behind, unused.
_FUSED = ("to_qkv", "to_kv", "to_added_qkv")


def tuner_layers(denoiser: Denoiser) -> list[Any]:
    """The layers that carry adapters."""
    return [module for module in denoiser.modules() if isinstance(module, BaseTunerLayer)]


def adapter_names(denoiser: Denoiser) -> list[str]:
    """Names of all adapters on the denoiser, active or not."""
    return list(getattr(denoiser, "peft_config", {}))


def base_layers(denoiser: Denoiser) -> list[str]:
    """Names of every Linear and Conv2d, whether adapters wrap it or not."""
    names: list[str] = []
    inside: tuple[str, ...] = ()
    for name, module in denoiser.named_modules():
        if inside and name.startswith(inside):
            continue
        if isinstance(module, BaseTunerLayer):
            inside = (*inside, f"{name}.")
            module = module.get_base_layer()
        if isinstance(module, nn.Linear | nn.Conv2d) and name.rpartition(".")[2] not in _FUSED:
            names.append(name)
    return names


def check_denoiser(denoiser: Denoiser) -> None:
    """Refuse a denoiser that an adapter cannot be trained on.

    Raises:
        ValueError: If a LoRA is fused or switched off, projections are fused, an IP-Adapter is loaded, or weights are
            quantised, in float8, made in `torch.inference_mode` or not in memory.
    """
    layers = tuner_layers(denoiser)
    if any(layer.merged for layer in layers):
        raise ValueError(
            "The pipeline has a fused LoRA, which a new adapter would silently un-fuse. Call pipe.unfuse_lora() "
            "first, or pipe.unload_lora_weights() to keep it in the base weights for good."
        )
    if any(layer.disable_adapters for layer in layers):
        raise ValueError(
            "The pipeline's adapters are switched off by disable_lora(). Call pipe.enable_lora() first, or "
            "pipe.unload_lora_weights() if they are not wanted."
        )
    if any(_is_fused(module) for module in denoiser.modules()):
        raise ValueError(
            "The attention projections are fused, so the layers an adapter goes to are not used. Call "
            "pipe.unfuse_qkv_projections() first."
        )
    parameters = list(denoiser.parameters())
    if any(p.dtype in (torch.float8_e4m3fn, torch.float8_e5m2) for p in parameters):
        raise ValueError(
            "The denoiser's weights are stored in float8 (layerwise casting), in which an adapter cannot train. "
            "Load the pipeline in float16, bfloat16 or float32 instead."
        )
    if any(p.is_inference() for p in parameters):
        raise ValueError(
            "The denoiser's weights were made inside torch.inference_mode(), so no gradient can pass through them. "
            "Load the pipeline outside of it; erasing and drawing inside are fine."
        )
    if getattr(denoiser, "hf_quantizer", None) is not None:
        raise ValueError(
            "The denoiser is quantised; load the pipeline without quantization_config, in float16 or bfloat16, and see "
            "gradient_checkpointing, offload and batch_size for less memory."
        )
    if getattr(denoiser.config, "encoder_hid_dim_type", None) == "ip_image_proj":
        raise ValueError(
            "The pipeline has an IP-Adapter, and a training has no image to give it. Call "
            "pipe.unload_ip_adapter() first."
        )
    if any(p.device.type == "meta" for p in parameters):
        raise ValueError(
            "The denoiser's weights are not in memory (sequential CPU offload). Call pipe.remove_all_hooks() and "
            "move the pipeline to a device, or use pipe.enable_model_cpu_offload() instead."
        )


def _is_fused(module: nn.Module) -> bool:
    # A U-Net's attention keeps the flag after unfusing; what it does is up to its processor.
    flag = getattr(module, "fused_projections", False)
    return flag and (not isinstance(module, Attention) or "Fused" in type(module.processor).__name__)


def check_name(denoiser: Denoiser, name: str) -> None:
    """Refuse a name that an adapter cannot have.

    Raises:
        ValueError: If it is blank, has a dot, is reserved by torch, or is in use.
    """
    check_adapter_name(name)
    if hasattr(nn.ModuleDict, name):
        raise ValueError(f"Adapter name {name!r} is reserved by torch.nn.ModuleDict; use {'no-' + name!r}.")
    if name in adapter_names(denoiser):
        raise ValueError(
            f"Adapter name {name!r} is in use on this pipeline ({', '.join(adapter_names(denoiser))}); "
            f"choose another with name=..., or free it with pipe.delete_adapters({name!r})."
        )


@contextmanager
def evaluation(denoiser: Denoiser) -> Iterator[None]:
    """The denoiser in evaluation mode, without anyone's dropout."""
    modes = [(module, module.training) for module in denoiser.modules()]
    denoiser.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def without(denoiser: Denoiser, names: Collection[str]) -> Iterator[None]:
    """Adapters switched off; after it they are as before, beside what was attached inside."""
    user, before = UserState(denoiser), adapter_names(denoiser)
    for layer in tuner_layers(denoiser):
        layer.__dict__["_active_adapter"] = [name for name in layer.active_adapters if name not in names]
    try:
        yield
    finally:
        user.restore(adding=[name for name in adapter_names(denoiser) if name not in before])


@contextmanager
def resident(denoiser: Denoiser) -> Iterator[None]:
    """The whole denoiser on its device: group offloading, which would take weights away before the gradient needs
    them, is taken off and put on again."""
    if not any(hasattr(module, "_diffusers_hook") for module in denoiser.modules()):
        yield
        return
    from diffusers.hooks import group_offloading as groups
    from diffusers.hooks.hooks import HookRegistry

    hook = groups._get_top_level_group_offload_hook(denoiser)
    kinds = (groups._GROUP_OFFLOADING, groups._LAYER_EXECUTION_TRACKER, groups._LAZY_PREFETCH_GROUP_OFFLOADING)
    try:
        if hook is not None:
            registry = HookRegistry.check_if_exists_or_initialize(denoiser)
            for kind in kinds:
                registry.remove_hook(kind, recurse=True)
            denoiser.to(hook.config.onload_device)
        yield
    finally:
        if hook is not None:
            groups._apply_group_offloading(denoiser, hook.config)


class UserState:
    """What the user's adapters and parameters were before we came: active adapters and `requires_grad`."""

    def __init__(self, denoiser: Denoiser) -> None:
        self._denoiser = denoiser
        self._active = {id(layer): list(layer.active_adapters) for layer in tuner_layers(denoiser)}
        self.active = list(dict.fromkeys(name for names in self._active.values() for name in names))
        self._requires_grad = [(p, p.requires_grad) for p in denoiser.parameters()]

    def restore(self, *, adding: Sequence[str] = (), removing: str | None = None) -> None:
        """Put back what was, with adapters more (last, frozen) or one less."""
        for layer in tuner_layers(self._denoiser):
            names = self._active.get(id(layer), self.active)
            names = [name for name in names if name != removing]
            layer.set_adapter([*names, *adding], inference_mode=True)
        for parameter, value in self._requires_grad:
            parameter.requires_grad_(value)


def model_name(pipe: Any) -> str:
    """The Hub id of a pipeline's model; of a local one only its folder's name, for the rest is nobody's business."""
    source = str(pipe.config.get("_name_or_path") or type(pipe).__name__)
    return Path(source).name if Path(source).exists() else source


_FINGERPRINT_LAYERS = 64
_LARGEST_HALF = 65504.0


def fingerprint(denoiser: Denoiser) -> str:
    """What tells the base weights of a denoiser from others, whatever adapters are on it.

    It is no hash, because the same weights are loaded in float32, float16 or bfloat16: it is the hexadecimal form of 64
    numbers in float16, little-endian, four digits each. They are the middle weight (in the order of the flattened
    tensor) of each of 64 Linear and Conv2d layers, evenly spaced in the order of `base_layers`; of fewer layers all.
    Compare with `same_weights`.

    Returns:
        The numbers, or `""`, which means unknown: a weight is not in memory, or quantised.
    """
    names = base_layers(denoiser)
    count = min(_FINGERPRINT_LAYERS, len(names))
    values = []
    for i in range(count):
        module = denoiser.get_submodule(names[i * len(names) // count])
        layer: Any = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        weight = layer.weight.detach()
        if weight.device.type == "meta" or weight.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            return ""
        value = weight.flatten()[weight.numel() // 2].item()
        values.append(min(max(value, -_LARGEST_HALF), _LARGEST_HALF))
    return struct.pack(f"<{count}e", *values).hex()


def same_weights(a: str, b: str) -> bool:
    """Whether two fingerprints are of the same weights, each rounded to any of float32, float16 and bfloat16.

    Args:
        a: What `fingerprint` returned, not `""`.
        b: The same of the other weights.
    """
    if len(a) != len(b):
        return False
    ours, theirs = (struct.unpack(f"<{len(text) // 4}e", bytes.fromhex(text)) for text in (a, b))
    # Rounding to bfloat16 changes a number by 2**-8 of it at most, float16 has no steps below 2**-24.
    return all(math.isclose(x, y, rel_tol=2**-7, abs_tol=2**-22) for x, y in zip(ours, theirs, strict=True))
