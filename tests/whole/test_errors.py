"""Bad input is refused before any expensive work, in words that say what to do; the pipeline stays clean."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import accelerate
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SanaSprintPipeline, StableDiffusionPipeline
from tiny import style_adapter, tiny_pipeline, tiny_unet, unmarked_tokenizer

from diffusers_esd import ESDTrainer, Limits
from diffusers_esd.training.vocabulary import words

QUICK: dict[str, Any] = {"num_inference_steps": 3, "iterations": 1, "rank": 2, "preserve": ()}


@pytest.mark.parametrize(
    ("concept", "name", "kind", "message"),
    [
        ("", None, ValueError, "`concept` is empty: got ''; give the words of a prompt."),
        ("  \n", None, ValueError, "`concept` is empty: got '  \\n'; give the words of a prompt."),
        ([], None, ValueError, "`concept` is an empty list; give at least one prompt."),
        (["a cat", ""], None, ValueError, "`concept` is empty: got ''; give the words of a prompt."),
        ([3], None, TypeError, "`concept` must be a string, got 3 of type int."),
        ([["a cat"]], None, TypeError, "`concept` must be a string, got ['a cat'] of type list."),
        (5, None, TypeError, "`concept` must be a string or a list of strings, got 5."),
        ("a cat", " ", ValueError, "The adapter name ' ' is empty; give a name such as 'no-cat'."),
        ("a cat", "v1.5", ValueError, "The adapter name 'v1.5' contains a dot, which PEFT cannot store; use 'v1-5'."),
        ("a cat", "keys", ValueError, "The adapter name 'keys' is reserved by torch.nn.ModuleDict; use 'no-keys'."),
        (
            "a cat",
            "style",
            ValueError,
            "The adapter name 'style' is in use on this pipeline (style); choose another with name=..., or free it "
            "with pipe.delete_adapters('style').",
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
    with pytest.raises(ValueError, match=r"^`erase_from` takes a single concept; erase several with one call each.$"):
        ESDTrainer(tiny_pipeline(), erase_from="a cowboy", **QUICK).erase(["a hat", "a horse"])


def test_sizes() -> None:
    with pytest.raises(
        ValueError, match=r"^`size` must be a multiple of 2, the pixels of a patch; got 17; give 16 or 18.$"
    ):
        ESDTrainer(tiny_pipeline(), size=17)


def test_too_many_steps_are_refused_before_training() -> None:
    with pytest.raises(
        ValueError,
        match=r"`num_inference_steps`=1000 gives the timestep 1000, but the model only has those from 0 to 999",
    ):
        ESDTrainer(tiny_pipeline(), num_inference_steps=1000)


def test_an_error_after_the_last_iteration_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    pipe = tiny_pipeline()
    monkeypatch.setattr("diffusers_esd.training.train.record", fail)
    with pytest.raises(KeyboardInterrupt):
        ESDTrainer(pipe, **QUICK).erase("a cat")
    assert not getattr(pipe.unet, "peft_config", {})


def test_predictions_that_overflow_are_named_before_training() -> None:
    pipe = tiny_pipeline().to(torch.float16)
    with torch.no_grad():
        pipe.unet.conv_out.weight.mul_(1e6)
    with pytest.raises(ValueError, match=r"^Predictions in torch.float16 overflow; load the pipeline in bfloat16"):
        ESDTrainer(pipe, **{**QUICK, "preserve": ("a dog", "a bus")}).erase("a cat")


def test_weights_of_inference_mode_are_refused() -> None:
    with torch.inference_mode():
        pipe = tiny_pipeline()
    with pytest.raises(ValueError, match=r"^The denoiser's weights were created inside torch.inference_mode\(\)"):
        ESDTrainer(pipe)


def test_without_words_or_with_none_left_the_vocabulary_is_refused() -> None:
    pipe = tiny_pipeline()
    everything = " ".join(words(pipe.tokenizer))
    with pytest.raises(ValueError, match=r"^The text encoder's vocabulary has no words to preserve besides "):
        ESDTrainer(pipe, **{**QUICK, "preserve": "vocabulary"}).erase(everything)
    pipe.tokenizer = unmarked_tokenizer()
    message = r"^`preserve`='vocabulary' needs a tokenizer that marks whole words, and a TokenizersBackend"
    with pytest.raises(ValueError, match=message):
        ESDTrainer(pipe, **{**QUICK, "preserve": "vocabulary"}).erase("a cat")
    options = {**QUICK, "preserve": ("a dog", "a bus"), "limits": Limits(largest_leak=float("inf"))}
    assert ESDTrainer(pipe, **options).erase("a cat").provenance.preserved["prompts"] == 2, "a list of prompts will do"


def test_a_pipeline_without_autoencoder_and_one_of_unequal_sides_train() -> None:
    pipe = tiny_pipeline(unet=tiny_unet(sample_size=(8, 12)))
    pipe.vae = None
    seen: list[torch.Size] = []
    pipe.unet.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    assert ESDTrainer(pipe, **QUICK).erase("a cat").provenance.complete
    assert {shape[-2:] for shape in seen} == {(8, 12)}


def test_an_unknown_pipeline_lists_the_families() -> None:
    parts = dict.fromkeys(("tokenizer", "text_encoder", "vae", "transformer", "scheduler"))
    with pytest.raises(TypeError) as caught:
        ESDTrainer(SanaSprintPipeline(**parts))
    assert str(caught.value) == (
        "Unknown pipeline SanaSprintPipeline; expected one of StableDiffusionPipeline, StableDiffusionXLPipeline, "
        "StableDiffusion3Pipeline, FluxPipeline, AuraFlowPipeline, SanaPipeline, QwenImagePipeline, ZImagePipeline, "
        "Flux2Pipeline, Flux2KleinPipeline, KolorsPipeline, WanPipeline. For another kind of model pass family=..., a "
        "subclass of diffusers_esd.Family."
    )


def _fused(pipe: StableDiffusionPipeline) -> None:
    style_adapter(pipe)
    pipe.fuse_lora()


def _disabled(pipe: StableDiffusionPipeline) -> None:
    style_adapter(pipe)
    pipe.disable_lora()


def _float8(pipe: StableDiffusionPipeline) -> None:
    pipe.unet.to(torch.float8_e4m3fn)


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
            "The denoiser's weights are in float8 without layerwise casting, so it cannot compute. Load the pipeline "
            "in float16, bfloat16 or float32; denoiser.enable_layerwise_casting() stores it in float8.",
        ),
        (
            _offloaded,
            "The denoiser's weights are not in memory (sequential CPU offload). Call pipe.remove_all_hooks() and move "
            "the pipeline to a device, or use pipe.enable_model_cpu_offload() instead.",
        ),
        (
            _flow,
            "The pipeline's FlowMatchEulerDiscreteScheduler does not have betas; give the pipeline the scheduler that "
            "its model was trained with, such as DDIMScheduler.",
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
        ({"eta": -1}, ValueError, "`eta` must be 0 or more, got -1."),
        ({"rank": 0}, ValueError, "`rank` must be 1 or more, got 0."),
        ({"batch_size": 0}, ValueError, "`batch_size` must be 1 or more, got 0."),
        ({"learning_rate": 0}, ValueError, "`learning_rate` must be above 0, got 0."),
        ({"strength": 2}, TypeError, "Unknown ESDConfig field strength; expected group, eta, guidance_scale, "),
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
        ({"in_channels": 9}, "The denoiser takes 9 channels and the autoencoder makes 4: an inpainting"),
        ({"time_cond_proj_dim": 8}, "The denoiser is a latent consistency model (time_cond_proj_dim is set)"),
    ],
)
def test_denoisers_with_other_inputs(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        ESDTrainer(tiny_pipeline(unet=tiny_unet(**changes)))
