"""The adapter on a denoiser: attach, switch off for the teacher, weights out and in. All that touches PEFT is here.

The teacher is the denoiser with *our* adapter off; whatever else the user has active stays in both. Switching goes
over layers collected once, which costs microseconds where walking the model costs tens of milliseconds. PEFT
activates a new adapter alone, makes every active adapter trainable and freezes the base: `UserState` notes what was
and puts it back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from .config import check_adapter_name
from .groups import Selection

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
        ValueError: If a LoRA is fused or switched off, if weights are in eight bits, or if they are not in memory.
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
    if getattr(denoiser, "hf_quantizer", None) is not None:
        raise ValueError(
            "The denoiser is quantised; load the pipeline without quantization_config, in float16 or bfloat16, and see "
            "gradient_checkpointing, offload and batch_size for less memory."
        )
    if getattr(denoiser.config, "encoder_hid_dim_type", None) == "ip_image_proj":
        raise ValueError(
            "The pipeline has an IP-Adapter, whose picture a training has not. Call pipe.unload_ip_adapter() first."
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


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """PyTorch's CPU generator, from which PEFT draws wherever the denoiser is, at a seed, and back."""
    state = torch.get_rng_state()
    try:
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        torch.set_rng_state(state)


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


class Adapter:
    """A LoRA of ours, attached to a denoiser and active beside the user's, with float32 weights.

    Args:
        denoiser: The pipeline's denoiser, a diffusers model.
        name: Name of the adapter, not in use.
        selection: The layers it goes to.
        rank: Rank in every layer.
        lora_alpha: Scale times rank.
        seed: Seed of the initial weights; the global generators are left as they were.
        rows: Fixed A of each layer, (rank, d); only B trains then. `None` draws A at random and trains both.

    Attributes:
        selection: The layers it is on.
        parameters: The weights that train.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        name: str,
        selection: Selection,
        *,
        rank: int,
        lora_alpha: float,
        seed: int,
        rows: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.name = name
        self.selection = selection
        self._denoiser = denoiser
        self._user = UserState(denoiser)
        # PEFT divides lora_alpha by r, so any number will do; its annotation says int.
        config = LoraConfig(r=rank, lora_alpha=lora_alpha, target_modules=selection.pattern)  # type: ignore[arg-type]
        try:
            with _seeded(seed):
                denoiser.add_adapter(config, adapter_name=name)
            self._set_up(rows)
        except BaseException:
            _delete(denoiser, name, self._user)
            raise

    def _set_up(self, rows: Mapping[str, Tensor] | None) -> None:
        denoiser, name = self._denoiser, self.name
        self._user.restore(adding=[name])
        self._layers = [layer for layer in tuner_layers(denoiser) if name in layer.lora_A]
        # By layer, not by name: a name such as "0" or "conv" also stands in the names of base weights.
        for layer in self._layers:
            for side in (layer.lora_A, layer.lora_B):
                side[name].weight.data = side[name].weight.data.float()
        for path, value in (rows or {}).items():
            weight = denoiser.get_submodule(path).lora_A[name].weight
            weight.data[: len(value)] = value.reshape(len(value), *weight.shape[1:])
            weight.data[len(value) :] = 0
        trained = ("lora_A", "lora_B") if rows is None else ("lora_B",)
        self.parameters = [getattr(layer, side)[name].weight for layer in self._layers for side in trained]
        self._states = [(layer.__dict__, list(layer.active_adapters)) for layer in self._layers]

    @contextmanager
    def training(self) -> Iterator[None]:
        """Our weights trainable and nothing else's; the denoiser in evaluation mode."""
        self._denoiser.requires_grad_(False)
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        try:
            with evaluation(self._denoiser):
                yield
        finally:
            self._user.restore(adding=[self.name])
            for parameter in self.parameters:
                parameter.grad = None

    @contextmanager
    def off(self) -> Iterator[None]:
        """The teacher: the denoiser without our adapter, with everything else."""
        for state, active in self._states:
            state["_active_adapter"] = [name for name in active if name != self.name]
        try:
            yield
        finally:
            for state, active in self._states:
                state["_active_adapter"] = active

    @torch.no_grad()
    def fold_scale(self) -> None:
        """Fold `lora_alpha / rank` into B, so that the attached adapter is, bit for bit, the one in the file."""
        for layer in self._layers:
            rank, alpha = layer.r[self.name], layer.lora_alpha[self.name]
            layer.lora_B[self.name].weight.mul_(alpha / rank)
            layer.lora_alpha[self.name] = rank
            layer.scaling[self.name] = 1.0
        self._denoiser.peft_config[self.name].lora_alpha = self._denoiser.peft_config[self.name].r

    def weights(self, component: str) -> dict[str, Tensor]:
        """The portable weights after `fold_scale`: `<component>.<module>.lora_A.weight`, float32, on the CPU."""
        return weights(self._denoiser, self.name, component)

    def detach(self) -> None:
        """Take the adapter off; the denoiser is as it was."""
        _delete(self._denoiser, self.name, self._user)


def weights(denoiser: Denoiser, name: str, component: str) -> dict[str, Tensor]:
    """A and B of an adapter by portable key, copied to the CPU."""
    # PEFT's own collection drops keys in which another adapter's name stands, such as "0".
    found = {
        f"{component}.{path}.{side}.weight": getattr(layer, side)[name].weight
        for path, layer in denoiser.named_modules()
        if isinstance(layer, LoraLayer) and name in layer.lora_A
        for side in ("lora_A", "lora_B")
    }
    return {key: weight.detach().cpu().contiguous().clone() for key, weight in found.items()}


def load(denoiser: Denoiser, component: str, weights: dict[str, Tensor], name: str, scale: float) -> None:
    """Load portable weights as a further active adapter; the user's stay as they are.

    Args:
        denoiser: The pipeline's denoiser.
        component: The prefix of the keys, `"unet"` or `"transformer"`.
        weights: What `Adapter.weights` returned.
        name: Name for the adapter, not in use.
        scale: Its scale; 1 is the erasure as trained, 0 the base.

    Raises:
        ValueError: If the weights do not fit the denoiser.
    """
    check_fit(denoiser, component, weights)
    user = UserState(denoiser)
    try:
        denoiser.load_lora_adapter(dict(weights), prefix=component, adapter_name=name)
    except BaseException:
        _delete(denoiser, name, user)
        raise
    user.restore(adding=[name])
    for layer in tuner_layers(denoiser):
        if name in layer.scaling:
            layer.set_scale(name, scale)


def activate(denoiser: Denoiser, scales: Mapping[str, float]) -> None:
    """Activate adapters that are on the denoiser, with scales, beside those that are active already."""
    user = UserState(denoiser)
    user.restore(adding=[name for name in scales if name not in user.active])
    for layer in tuner_layers(denoiser):
        for name, scale in scales.items():
            if name in layer.scaling:
                layer.set_scale(name, scale)


def active_scales(denoiser: Denoiser) -> dict[str, float]:
    """The active adapters and the scales they are active with."""
    found: dict[str, float] = {}
    for layer in tuner_layers(denoiser):
        for name in layer.active_adapters:
            if name in layer.scaling:
                found.setdefault(name, layer.scaling[name] * layer.r[name] / layer.lora_alpha[name])
    return found


def check_fit(denoiser: Denoiser, component: str, weights: dict[str, Tensor]) -> None:
    """Refuse weights whose layers the denoiser lacks or has in another shape.

    Raises:
        ValueError: Naming the first layer that does not fit.
    """
    modules = dict(denoiser.named_modules())
    for key, value in weights.items():
        name, _, side = key.removeprefix(f"{component}.").removesuffix(".weight").rpartition(".")
        module = modules.get(name)
        module = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        if not isinstance(module, nn.Linear | nn.Conv2d):
            raise ValueError(f"The erasure was trained on another architecture: this denoiser has no layer {name!r}.")
        one = (1,) * (module.weight.dim() - 2)  # B's kernel
        fits = (
            value.shape[1:] == module.weight.shape[1:]
            if side == "lora_A"
            else (value.shape[:1] == module.weight.shape[:1] and value.shape[2:] == one)
        )
        if not fits:
            raise ValueError(
                f"The erasure was trained on another architecture: layer {name!r} has weights of shape "
                f"{tuple(module.weight.shape)}, and the erasure's {side} has {tuple(value.shape)}."
            )


def remove(denoiser: Denoiser, name: str) -> None:
    """Take an adapter off; the others stay as they are.

    Raises:
        ValueError: If there is no adapter of that name.
    """
    if name not in adapter_names(denoiser):
        there = ", ".join(adapter_names(denoiser)) or "none"
        raise ValueError(f"No adapter {name!r} on this pipeline; adapters there: {there}.")
    _delete(denoiser, name, UserState(denoiser))


def _delete(denoiser: Denoiser, name: str, user: UserState) -> None:
    if name in adapter_names(denoiser):
        denoiser.delete_adapters(name)
    if not adapter_names(denoiser):
        denoiser.unload_lora()
    # PEFT leaves its wrapper on layers that no adapter is left on.
    for path, layer in list(denoiser.named_modules()):
        if isinstance(layer, LoraLayer) and not layer.lora_A:
            denoiser.set_submodule(path, layer.get_base_layer())
    user.restore(removing=name)


def model_name(pipe: Any) -> str:
    """The Hub id of a pipeline's model; of a local one only its folder's name, for the rest is nobody's business."""
    source = str(pipe.config.get("_name_or_path") or type(pipe).__name__)
    return Path(source).name if Path(source).exists() else source
