"""Bad input is refused before any expensive work, in words that say what to do; the pipeline stays clean."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import accelerate
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, FlowMatchEulerDiscreteScheduler, StableDiffusionPipeline, UNet2DModel
from tiny import style_adapter, tiny_pipeline, tiny_unet

from diffusers_esd import ESDTrainer
from diffusers_esd.groups import select

QUICK: dict[str, Any] = {"num_inference_steps": 3, "iterations": 1, "rank": 2, "preserve": ()}


@pytest.mark.parametrize(
    ("concept", "name", "kind", "message"),
    [
        ("", None, ValueError, "concept is empty: got ''; give the words of a prompt."),
        ("  \n", None, ValueError, "concept is empty: got '  \\n'; give the words of a prompt."),
        ([], None, ValueError, "concept is an empty list; give at least one prompt."),
        (["a cat", ""], None, ValueError, "concept is empty: got ''; give the words of a prompt."),
        ([3], None, TypeError, "concept must be text, got 3 of type int."),
        ("a cat", " ", ValueError, "Adapter name ' ' is empty; give it a name such as 'no-cat'."),
        ("a cat", "v1.5", ValueError, "Adapter name 'v1.5' has a dot, which PEFT cannot store; use 'v1-5'."),
        ("a cat", "keys", ValueError, "Adapter name 'keys' is reserved by torch.nn.ModuleDict; use 'no-keys'."),
        (
            "a cat",
            "style",
            ValueError,
            "Adapter name 'style' is in use on this pipeline (style); choose another with name=..., or free it with "
            "pipe.delete_adapters('style').",
        ),
    ],
)
def test_concepts_and_names(concept: Any, name: str | None, kind: type[Exception], message: str) -> None:
    pipe = tiny_pipeline()
    style_adapter(pipe)
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        ESDTrainer(pipe, **QUICK).erase(concept, name=name)
    assert list(pipe.unet.peft_config) == ["style"]


def test_several_concepts_from_one_prompt() -> None:
    with pytest.raises(ValueError, match=r"^erase_from takes a single concept; erase several with one call each.$"):
        ESDTrainer(tiny_pipeline(), erase_from="a cowboy", **QUICK).erase(["a hat", "a horse"])


def test_groups() -> None:
    with pytest.raises(ValueError, match=r"^group='xattn' is unknown; choose one of 'esd-x', "):
        ESDTrainer(tiny_pipeline(), group="xattn")
    message = "group='esd-x' selects no layer of this denoiser; groups that do: 'esd-u' (1 layers), 'full' (1 layers)."
    with pytest.raises(ValueError, match=re.escape(message)):
        select(["conv_in"], ["", "conv_in"], "esd-x")


def test_sizes() -> None:
    with pytest.raises(ValueError, match=r"^size=17 cannot be divided by 2, the pixels of a patch; give 16 or 18.$"):
        ESDTrainer(tiny_pipeline(), size=17)


def test_an_unknown_pipeline_lists_the_families() -> None:
    unet = UNet2DModel(sample_size=8, block_out_channels=(32, 32), down_block_types=("DownBlock2D",) * 2,
                       up_block_types=("UpBlock2D",) * 2)  # fmt: skip
    with pytest.raises(TypeError) as caught:
        ESDTrainer(DDPMPipeline(unet, DDPMScheduler()))
    assert str(caught.value) == (
        "ESDTrainer does not know the denoiser of a DDPMPipeline; it knows StableDiffusionPipeline, "
        "StableDiffusionXLPipeline, StableDiffusion3Pipeline, FluxPipeline, AuraFlowPipeline. "
        "For another kind of model pass family=..., a subclass of diffusers_esd.Family."
    )


def _fused(pipe: StableDiffusionPipeline) -> None:
    style_adapter(pipe)
    pipe.fuse_lora()


def _disabled(pipe: StableDiffusionPipeline) -> None:
    style_adapter(pipe)
    pipe.disable_lora()


def _float8(pipe: StableDiffusionPipeline) -> None:
    pipe.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)


def _offloaded(pipe: StableDiffusionPipeline) -> None:
    accelerate.cpu_offload(pipe.unet, execution_device=torch.device("cpu"))


def _flow(pipe: StableDiffusionPipeline) -> None:
    pipe.scheduler = FlowMatchEulerDiscreteScheduler()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            _fused,
            "The pipeline has a fused LoRA, which a new adapter would silently un-fuse. Call pipe.unfuse_lora() first, "
            "or pipe.unload_lora_weights() to keep it in the base weights for good.",
        ),
        (
            _disabled,
            "The pipeline's adapters are switched off by disable_lora(). Call pipe.enable_lora() first, or "
            "pipe.unload_lora_weights() if they are not wanted.",
        ),
        (
            _float8,
            "The denoiser's weights are stored in float8 (layerwise casting), in which an adapter cannot train. Load "
            "the pipeline in float16, bfloat16 or float32 instead.",
        ),
        (
            _offloaded,
            "The denoiser's weights are not in memory (sequential CPU offload). Call pipe.remove_all_hooks() and move "
            "the pipeline to a device, or use pipe.enable_model_cpu_offload() instead.",
        ),
        (
            _flow,
            "The pipeline's FlowMatchEulerDiscreteScheduler has no betas; give the pipeline the scheduler its model "
            "was trained with, such as DDIMScheduler.",
        ),
    ],
)
def test_pipelines_that_cannot_be_trained(spoil: Callable[[StableDiffusionPipeline], None], message: str) -> None:
    pipe = tiny_pipeline()
    ready = ESDTrainer(pipe, **QUICK)
    spoil(pipe)
    there = list(getattr(pipe.unet, "peft_config", {}))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ESDTrainer(pipe, **QUICK)
    if spoil is not _flow:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            ready.erase("a cat")
    assert list(getattr(pipe.unet, "peft_config", {})) == there
    assert not any(".no-a-cat." in name for name, _ in pipe.unet.named_parameters())


@pytest.mark.parametrize("undo", ["unfuse", "unload", "enable"])
def test_the_remedies_work(undo: str) -> None:
    pipe = tiny_pipeline()
    (_disabled if undo == "enable" else _fused)(pipe)
    {"unfuse": pipe.unfuse_lora, "unload": pipe.unload_lora_weights, "enable": pipe.enable_lora}[undo]()
    assert ESDTrainer(pipe, **QUICK).erase("a cat").provenance.complete


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ({"eta": -1}, ValueError, "eta=-1 is out of range; it must be 0 or more."),
        ({"rank": 0}, ValueError, "rank=0 is too small; it must be 1 or more."),
        ({"batch_size": 0}, ValueError, "batch_size=0 is too small; it must be 1 or more."),
        ({"learning_rate": 0}, ValueError, "learning_rate=0 is out of range; it must be above 0."),
        ({"strength": 2}, TypeError, "ESDConfig has no field strength; it has group, eta, guidance_scale, "),
    ],
)
def test_the_trainer_checks_its_overrides(values: dict[str, Any], kind: type[Exception], message: str) -> None:
    pipe = tiny_pipeline()
    with pytest.raises(kind, match=f"^{re.escape(message)}"):
        ESDTrainer(pipe, **values)
    assert not hasattr(pipe.unet, "peft_config")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_channels": 9}, "The denoiser takes 9 channels and the autoencoder makes 4 (an inpainting"),
        ({"time_cond_proj_dim": 8}, "The denoiser is a latent consistency model (time_cond_proj_dim is set)"),
    ],
)
def test_denoisers_with_other_inputs(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        ESDTrainer(tiny_pipeline(unet=tiny_unet(**changes)))
