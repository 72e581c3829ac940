"""A pipeline's denoiser as its user left it: what is on it, what cannot be trained, how its state is restored.

PEFT activates a new adapter alone, makes every active adapter trainable and freezes the base. `Snapshot` records the
state before that and restores it. PEFT is used in this file and in `adapter.py`, nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from diffusers.models.attention_processor import Attention
from diffusers.utils.torch_utils import unwrap_module
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from .names import check_new_name
from .quantization import untrainable

Denoiser = Any
"""A diffusers model that takes adapters: an `nn.Module` with `ModelMixin` and `PeftAdapterMixin`."""

Component = Literal["unet", "transformer"]
"""Names that pipelines give to their denoiser."""

# Projections that diffusers makes when it fuses attention, and leaves behind, unused, when it unfuses.
_FUSED = ("to_qkv", "to_kv", "to_added_qkv")


def find_denoiser(pipe: Any, component: str | None = None) -> tuple[str, Denoiser]:
    """Name and model of a pipeline's denoiser, without the wrapper of `torch.compile`.

    Args:
        pipe: The pipeline.
        component: Its name, if it is known.

    Raises:
        ValueError: If the pipeline does not have it.
    """
    names = get_args(Component) if component is None else (component,)
    for name in names:
        if (model := getattr(pipe, name, None)) is not None:
            return name, unwrap_module(model)
    raise ValueError(
        f"The pipeline must have a {' or a '.join(names)}; a {type(pipe).__name__} has {', '.join(pipe.components)}."
    )


def has_hooks(model: nn.Module) -> bool:
    """Whether accelerate or diffusers has put hooks on a model: offloading, caching, layerwise casting."""
    return any(hasattr(module, "_hf_hook") or hasattr(module, "_diffusers_hook") for module in model.modules())


def tuner_layers(model: nn.Module) -> list[Any]:
    """The layers of a model that carry adapters."""
    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


def adapter_names(denoiser: Denoiser) -> list[str]:
    """Names of all adapters on the denoiser, active or not."""
    return list(getattr(denoiser, "peft_config", {}))


def active_scales(denoiser: Denoiser) -> dict[str, float]:
    """The active adapters and their scales."""
    scales: dict[str, float] = {}
    for layer in tuner_layers(denoiser):
        for name in layer.active_adapters:
            if name in layer.scaling and name not in scales:
                is_rslora = getattr(denoiser.peft_config[name], "use_rslora", False)
                rank = math.sqrt(layer.r[name]) if is_rslora else layer.r[name]
                scales[name] = layer.scaling[name] * rank / layer.lora_alpha[name]
    return scales


def base_layer(layer: Any) -> Any:
    """The layer itself, without the wrapper that adapters put around it."""
    return layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer


def base_layers(denoiser: Denoiser) -> list[str]:
    """Names of every Linear and Conv2d, with or without adapters; not of grouped ones, which PEFT does not adapt."""
    names, inside = list[str](), tuple[str, ...]()
    for name, module in denoiser.named_modules():
        if inside and name.startswith(inside):
            continue
        if isinstance(module, BaseTunerLayer):
            inside = (*inside, f"{name}.")
        layer = base_layer(module)
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1):
            names.append(name)
    return [name for name in names if name.rpartition(".")[2] not in _FUSED]


def base_weights(denoiser: Denoiser) -> dict[str, torch.Tensor]:
    """Parameters and buffers of the base model by the name that they have without adapters."""
    return {key.replace(".base_layer", ""): value for key, value in denoiser.state_dict().items()}


def check_denoiser(denoiser: Denoiser) -> None:
    """Refuse a denoiser on which an adapter cannot be trained.

    Raises:
        ValueError: If a LoRA is fused or switched off, projections are fused, an IP-Adapter is loaded, or weights are
            quantised in a way that training does not support, created in `torch.inference_mode` or not in memory. The
            message says what to call.
    """
    for problem, remedy in _problems(denoiser):
        if problem:
            raise ValueError(remedy)


def _problems(denoiser: Denoiser) -> Iterator[tuple[bool, str]]:
    """Everything that prevents training: whether it is the case, and what to do about it."""
    layers, parameters = tuner_layers(denoiser), list(denoiser.parameters())
    yield (
        any(layer.merged for layer in layers),
        "The pipeline has a fused LoRA, which a new adapter would silently un-fuse. Call pipe.unfuse_lora() first, or "
        "pipe.unload_lora_weights() to keep it in the base weights for good.",
    )
    yield (
        any(layer.disable_adapters for layer in layers),
        "The pipeline's adapters are switched off by disable_lora(). Call pipe.enable_lora() first, or "
        "pipe.unload_lora_weights() if they are not wanted.",
    )
    yield (
        any(_is_fused(module) for module in denoiser.modules()),
        "The attention projections are fused, so the layers that an adapter would train are not used. Call "
        "pipe.unfuse_qkv_projections() first.",
    )
    yield (
        any(p.is_inference() for p in parameters),
        "The denoiser's weights were created inside torch.inference_mode(), so gradients cannot pass through them. "
        "Load the pipeline outside of it; erasing and drawing inside are fine.",
    )
    yield bool(problem := untrainable(denoiser)), problem
    yield (
        getattr(denoiser.config, "encoder_hid_dim_type", None) == "ip_image_proj",
        "The pipeline has an IP-Adapter, and training has no image to give it. Call pipe.unload_ip_adapter() first.",
    )
    yield (
        any(p.device.type == "meta" for p in parameters),
        "The denoiser's weights are not in memory (sequential CPU offload). Call pipe.remove_all_hooks() and move the "
        "pipeline to a device, or use pipe.enable_model_cpu_offload() instead.",
    )


def _is_fused(module: nn.Module) -> bool:
    # A U-Net's attention keeps the flag after unfusing; its processor decides what is used.
    flag = getattr(module, "fused_projections", False)
    return flag and (not isinstance(module, Attention) or "Fused" in type(module.processor).__name__)


def check_name(denoiser: Denoiser, name: str) -> None:
    """Refuse a name that a new adapter cannot have.

    Raises:
        ValueError: If it is blank, contains a dot or a slash, is reserved by torch, or is in use.
    """
    check_new_name(name)
    if name in adapter_names(denoiser):
        raise ValueError(
            f"The adapter name {name!r} is in use on this pipeline ({', '.join(adapter_names(denoiser))}); choose "
            f"another with name=..., or free it with pipe.delete_adapters({name!r})."
        )


def check_present(denoiser: Denoiser, names: Collection[str]) -> None:
    """Refuse names of adapters that are not on the denoiser.

    Raises:
        ValueError: With the names that are missing and those that are there.
    """
    if missing := sorted(set(names) - set(adapter_names(denoiser))):
        quoted, present = ", ".join(map(repr, missing)), ", ".join(adapter_names(denoiser)) or "none"
        raise ValueError(f"There is no adapter {quoted} on this pipeline; adapters on it: {present}.")


class Snapshot:
    """The user's adapters and parameters at one moment: which are active, with which scale, what requires a gradient.

    Attributes:
        names: Names of all adapters.
        active: Names of the active ones.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self._denoiser, self._layers, self.names = denoiser, tuner_layers(denoiser), adapter_names(denoiser)
        self._active = {id(layer): list(layer.active_adapters) for layer in self._layers}
        self._scales = [(layer, dict(layer.scaling)) for layer in self._layers if isinstance(layer, LoraLayer)]
        self._requires_grad = [(p, p.requires_grad) for p in denoiser.parameters()]
        self.active = list(dict.fromkeys(name for names in self._active.values() for name in names))
        self._are_disabled = any(layer.disable_adapters for layer in self._layers)
        self._state = self._current()

    def _current(self) -> tuple[Any, ...]:
        """What can change, of the layers and parameters that were there at that moment."""
        return (
            adapter_names(self._denoiser),
            [(list(layer.active_adapters), layer.disable_adapters, layer.merged) for layer in self._layers],
            [dict(layer.scaling) for layer, _ in self._scales],
            [parameter.requires_grad for parameter, _ in self._requires_grad],
        )

    def is_current(self) -> bool:
        """Whether nothing has changed since. This takes much less time than to restore it."""
        return self._current() == self._state

    def restore(self, *, adding: Sequence[str] = (), removing: str | None = None) -> None:
        """Restore the state.

        Args:
            adding: Adapters that are active from now on as well, last and frozen.
            removing: An adapter that is not there any more.
        """
        for layer in tuner_layers(self._denoiser):
            names = [name for name in self._active.get(id(layer), self.active) if name != removing]
            layer.set_adapter([*names, *adding], inference_mode=True)
            if layer.disable_adapters and not self._are_disabled:
                layer.enable_adapters(enabled=True)
        for layer, scales in self._scales:
            for name in scales.keys() & layer.scaling.keys():
                layer.scaling[name] = scales[name]
        for parameter, value in self._requires_grad:
            parameter.requires_grad_(value)


@contextmanager
def switched_off(denoiser: Denoiser, names: Collection[str]) -> Iterator[None]:
    """Some adapters inactive. Afterwards they are active again, beside those that were added inside."""
    before, present = Snapshot(denoiser), adapter_names(denoiser)
    for layer in tuner_layers(denoiser):
        layer.__dict__["_active_adapter"] = [name for name in layer.active_adapters if name not in names]
    try:
        yield
    finally:
        before.restore(adding=[name for name in adapter_names(denoiser) if name not in present])
