"""What a training does for memory, and undoes afterwards: offloading, gradient checkpointing. What else would help.

Only text encoders that are dropped do not come back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.checkpoint
from diffusers.training_utils import free_memory, offload_models
from diffusers.utils.torch_utils import unwrap_module
from torch import nn

from ..config import ESDConfig
from ..denoiser import Denoiser, has_hooks
from ..families import Family
from ..quantization import is_in_float8
from ..run import RunConfig
from .encoding import encoder_names
from .graphs import obstacle


@contextmanager
def offloaded(family: Family, run: RunConfig) -> Iterator[None]:
    """The denoiser alone on the pipeline's device, as far as `run` says so; all prompts must be encoded.

    With `free_text_encoders` the text encoders are dropped, with `offload` the other models are on the CPU. Then the
    denoiser may have waited on the CPU, and moves to the device.
    """
    device, denoiser = family.device, family.denoiser
    if run.free_text_encoders:
        for name in encoder_names(family):
            setattr(family.pipe, name, None)
    others = _movable(family) if run.offload else []
    is_alone = bool(others) or run.free_text_encoders
    with offload_models(*others, device="cpu", offload=bool(others)):
        if is_alone:
            free_memory()
        waits = is_alone and not has_hooks(denoiser) and next(denoiser.parameters()).device != device
        with offload_models(denoiser, device=device, offload=waits):
            yield
    if waits:
        free_memory()


def check_memory(family: Family, run: RunConfig) -> None:
    """Refuse what cannot save memory on this pipeline.

    Raises:
        ValueError: If the denoiser does not support `gradient_checkpointing` or its weights are in float8 (layerwise
            casting), or hooks keep the text encoders that are to be dropped.
    """
    denoiser = family.denoiser
    # 2026-11: the models of diffusers do not say it in public.
    if run.gradient_checkpointing and not denoiser._supports_gradient_checkpointing:
        raise ValueError(f"A {type(denoiser).__name__} does not support `gradient_checkpointing`; set it to False.")
    if (run.gradient_checkpointing or denoiser.is_gradient_checkpointing) and is_in_float8(denoiser):
        raise ValueError(
            "Gradient checkpointing and layerwise casting do not work together: the weights would be in float8 when "
            "activations are computed again. Set `gradient_checkpointing` to False and call "
            "disable_gradient_checkpointing() on the denoiser, or load it with quantization_config instead."
        )
    encoders = [family.pipe.components[name] for name in encoder_names(family)]
    if run.free_text_encoders and any(model is not None and has_hooks(model) for model in encoders):
        raise ValueError(
            "`free_text_encoders` cannot drop text encoders that hooks move, such as those of "
            "enable_model_cpu_offload(), because the hooks keep them. Call pipe.remove_all_hooks() first, or leave it "
            "out."
        )


def check_several(run: RunConfig, concepts: Sequence[str]) -> None:
    """Refuse to drop text encoders that the next concept needs.

    Raises:
        ValueError: With what to do.
    """
    if run.free_text_encoders and len(concepts) > 1:
        raise ValueError(
            f"`free_text_encoders` drops the text encoders, which are needed again for each of {len(concepts)} "
            "concepts. Leave it out, or move them away with `offload`=True."
        )


@contextmanager
def onloaded(family: Family, run: RunConfig) -> Iterator[None]:
    """With `offload`, the pipeline's other models on its device inside, where `offloaded` has moved them to the CPU."""
    others = _movable(family) if run.offload else []
    with offload_models(*others, device=family.device, offload=bool(others)):
        yield
    if others:
        free_memory()


@contextmanager
def checkpointed(family: Family, run: RunConfig) -> Iterator[None]:
    """With `gradient_checkpointing`, activations computed again in the backward pass."""
    denoiser: Any = family.denoiser
    if not run.gradient_checkpointing or denoiser.is_gradient_checkpointing:
        yield
        return
    denoiser.enable_gradient_checkpointing(_checkpoint)
    try:
        yield
    finally:
        denoiser.disable_gradient_checkpointing()


def _checkpoint(module: nn.Module, *inputs: Any) -> Any:
    # A CUDA graph cannot contain the reading of a random state. Nothing in the denoiser is random in evaluation mode.
    return torch.utils.checkpoint.checkpoint(module.__call__, *inputs, use_reentrant=False, preserve_rng_state=False)


@contextmanager
def with_memory_advice(family: Family, config: ESDConfig, run: RunConfig) -> Iterator[None]:
    """Out of memory, an error says what would need less, what saves most first."""
    can_checkpoint = not run.gradient_checkpointing and not is_in_float8(family.denoiser)
    is_captured = not obstacle(family, run)  # before a failure, which may leave the pipeline incomplete
    try:
        yield
    except torch.OutOfMemoryError as error:
        batch = f"batch_size=1, gradient_accumulation_steps={config.batch_size * config.gradient_accumulation_steps}"
        others = [
            "gradient_checkpointing=True (a checkpoint can be resumed with it)" if can_checkpoint else "",
            batch if config.batch_size > 1 else "",
            "capture=False (a checkpoint can be resumed with it)" if is_captured else "",
            "" if run.offload else "offload=True (a checkpoint can be resumed with it)",
            "a smaller `size`",
            f"a `rank` below {config.rank}" if config.rank > 1 else "",
        ]
        error.add_note("To need less memory, try, what saves most first: " + "; ".join(filter(None, others)) + ".")
        raise


@contextmanager
def without_group_offloading(denoiser: Denoiser) -> Iterator[None]:
    """The whole denoiser on its device: group offloading would remove weights before the gradient needs them."""
    if not has_hooks(denoiser):
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


def _movable(family: Family) -> list[nn.Module]:
    """The pipeline's other models, without those that hooks move already."""
    models = [model for model in family.pipe.components.values() if isinstance(model, nn.Module)]
    return [
        model
        for model in models
        if unwrap_module(model) is not family.denoiser
        and not has_hooks(model)
        and next(model.parameters(), None) is not None
    ]
