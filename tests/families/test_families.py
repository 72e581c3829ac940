"""Every family on its real classes: the pipeline's own states, exact teachers, layers, training and files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from controls import must_fail
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    PixArtSigmaPipeline,
    QwenImagePipeline,
    SanaPipeline,
    StableDiffusionXLImg2ImgPipeline,
    UniPCMultistepScheduler,
    WanTransformer3DModel,
)
from pipelines import alignment
from tiny import not_captured, tiny_aura_flow, tiny_flux, tiny_pipeline, tiny_sd3, tiny_xl
from tiny_language import (
    tiny_flux_2,
    tiny_klein,
    tiny_kolors,
    tiny_qwen_image,
    tiny_sana,
    tiny_wan,
    tiny_z_image,
)
from torch import Tensor

from diffusers_esd import ESDConfig, ESDTrainer, Limits
from diffusers_esd.adapter import Adapter
from diffusers_esd.denoiser import base_layers
from diffusers_esd.families import Family, StableDiffusionXL, Wan, family_for
from diffusers_esd.groups import select
from diffusers_esd.modes import evaluation
from diffusers_esd.training import vocabulary
from diffusers_esd.training.encoding import Encoded
from diffusers_esd.training.networks import Networks
from diffusers_esd.training.null_space import NullSpace, NullSpaceFinder, sees_text
from diffusers_esd.training.prompts import Prompts
from diffusers_esd.training.trajectory import FreshTrajectory
from diffusers_esd.training.vocabulary import Preserved

STEPS = 5  # divides 1000: the pipelines' own DDIM then steps to its next timestep
BUILDERS: dict[str, Callable[..., Any]] = {
    "sd1": tiny_pipeline,
    "sd2": lambda: tiny_pipeline("v_prediction"),
    "sdxl": tiny_xl,
    "sd3": tiny_sd3,
    "sd3.5": lambda: tiny_sd3(dual=True),
    "flux-dev": tiny_flux,
    "flux-schnell": lambda: tiny_flux(guidance_embeds=False),
    "aura-flow": tiny_aura_flow,
    "sana": tiny_sana,
    "qwen-image": tiny_qwen_image,
    "z-image": tiny_z_image,
    "flux-2": tiny_flux_2,
    "klein": tiny_klein,
    "kolors": tiny_kolors,
    "wan": tiny_wan,
}
kinds = pytest.mark.parametrize("kind", list(BUILDERS))


def family_of(pipe: Any) -> Family:
    """Its family, with 48 tokens to a prompt where the number is free: 512 would take most of the time of a test."""
    family = family_for(pipe)
    if hasattr(family, "max_sequence_length"):
        family.max_sequence_length = 48
    return family


def first_order(**changes: Any) -> DPMSolverMultistepScheduler:
    """The solver that Sana is published with, whose steps of first order are Euler's."""
    options = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0, **changes}
    return DPMSolverMultistepScheduler(solver_order=1, **options)


def with_ddim(pipe: Any, **changes: Any) -> Any:
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, **{"clip_sample": False, **changes})
    return pipe


def attach(family: Family, group: Any = "esd-x", name: str = "ours") -> Adapter:
    denoiser = family.denoiser
    modules = [module for module, _ in denoiser.named_modules()]
    patterns = {"text_layers": family.text_layers, "text_inputs": family.text_inputs}
    selection = select(base_layers(denoiser), modules, group, **patterns)
    return Adapter(denoiser, name, selection, rank=2, lora_alpha=2, seed=0)


def drawn(
    pipe: Any, noise: Tensor, guidance_scale: float, family: Family | None = None, steps: int = STEPS
) -> list[Tensor]:
    """The states of a trajectory of ours."""
    family = family or family_for(pipe)
    schedule = family.schedule(steps, tuple(noise.shape[1:]), guidance_scale)
    encoded = Encoded(family)
    encoded.add(["", "a cat"])
    options: dict[str, Any] = {"purpose": "erase", "seed": 0, "batch_size": 1, "rollout": "student"}
    trajectory = FreshTrajectory(
        Networks(schedule, attach(family), encoded, not_captured()), ["a cat"], states=1, **options
    )
    states = [noise]
    for position in range(steps):
        here, next_one = torch.tensor([position]), torch.tensor([position + 1])
        states.append(trajectory.denoise(states[-1], here, next_one, ["a cat"]))
    return states


def packed(pipe: Any, latents: Tensor) -> Tensor:
    """Latents as the pipeline's callback has them."""
    if isinstance(pipe, Flux2Pipeline | Flux2KleinPipeline):
        return pipe._pack_latents(pipe._patchify_latents(latents))
    return pipe._pack_latents(latents, *latents.shape) if hasattr(pipe, "_pack_latents") else latents


def given(pipe: Any, latents: Tensor) -> Tensor:
    """Latents as the pipeline takes them."""
    if isinstance(pipe, Flux2Pipeline | Flux2KleinPipeline):
        return pipe._patchify_latents(latents)
    return packed(pipe, latents)


# As NoobAI's second model is trained.
ZERO_SNR = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


def call_of(pipe: Any, guidance_scale: float) -> dict[str, Any]:
    """The pipeline's arguments for a small image with this guidance."""
    if isinstance(pipe, QwenImagePipeline):
        return {"true_cfg_scale": guidance_scale, "negative_prompt": ""}
    if isinstance(pipe, SanaPipeline):
        return {"guidance_scale": guidance_scale, "use_resolution_binning": False}
    return {"guidance_scale": guidance_scale}


def sampled(pipe: Any, noise: Tensor, guidance_scale: float, **options: Any) -> list[Tensor]:
    """What the pipeline's callback is given after each step."""
    states: list[Tensor] = []

    def keep(pipe: Any, i: int, t: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        states.append(tensors["latents"])
        return tensors

    size = noise.shape[-1] * family_for(pipe).scale_factor
    pipe(
        prompt="a cat",
        latents=given(pipe, noise),
        num_inference_steps=options.pop("steps", STEPS),
        height=size,
        width=size,
        output_type="latent",
        callback_on_step_end=keep,
        **call_of(pipe, guidance_scale),
        **options,
    )
    return states


@pytest.mark.parametrize(
    ("build", "guidance_scale"),
    [
        (lambda: with_ddim(tiny_pipeline(), **ZERO_SNR), 4),
        (lambda: with_ddim(tiny_pipeline(), timestep_spacing="trailing"), 1),
        (lambda: with_ddim(tiny_xl()), 4),
        (lambda: with_ddim(tiny_xl(force_zeros=False)), 4),
        (lambda: with_ddim(tiny_xl(), timestep_spacing="trailing"), 1),
        (lambda: with_ddim(tiny_xl(), **ZERO_SNR), 4),
        (tiny_sd3, 4),
        (lambda: tiny_sd3(dual=True, use_dynamic_shifting=True), 4),
        (tiny_flux, 4),
        (lambda: tiny_flux(guidance_embeds=False), 4),
        (tiny_aura_flow, 4),
        (tiny_sana, 4),
        (lambda: tiny_sana(first_order()), 4),
        (tiny_qwen_image, 4),
        (lambda: tiny_qwen_image(use_dynamic_shifting=False), 1),
        (tiny_z_image, 4),
        (tiny_z_image, 0),
        (tiny_flux_2, 4),
        (tiny_klein, 4),
        (lambda: tiny_klein(is_distilled=True), 4),
        (lambda: with_ddim(tiny_kolors()), 4),
        (tiny_wan, 4),
        (lambda: tiny_wan(expand_timesteps=True), 4),
    ],
    ids=[
        *("sd2-zero-snr", "sd-turbo", "sdxl", "sdxl-no-zeros", "sdxl-turbo", "sdxl-zero-snr"),
        *(
            "sd3",
            "sd3.5-shifted",
            "flux-dev",
            "flux-schnell",
            "aura-flow",
            "sana",
            "sana-solver",
            "qwen-image",
            "qwen-image-1",
        ),
        *("z-image", "z-image-turbo", "flux-2", "klein", "klein-distilled", "kolors", "wan", "wan-5b"),
    ],
)
def test_states_are_the_pipelines_own(build: Callable[[], Any], guidance_scale: float) -> None:
    pipe = build()
    family = family_for(pipe)
    shape = family.latent_shape(8 * family.scale_factor)
    noise = torch.randn((1, *shape), generator=torch.Generator().manual_seed(3))
    states, expected = drawn(pipe, noise, guidance_scale)[1:], sampled(pipe, noise, guidance_scale)
    for state, theirs in zip(states, expected, strict=True):
        torch.testing.assert_close(packed(pipe, state), theirs, rtol=1e-4, atol=1e-4)
    with must_fail("states do move"):
        torch.testing.assert_close(states[0], states[1], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("spacing", "steps"), [("leading", 5), ("leading", 6), ("trailing", 28), ("linspace", 10), ("linspace", 28)]
)
def test_eulers_states_are_ours_times_a_scale(spacing: str, steps: int) -> None:
    """The real SDXL pipeline with its Euler scheduler, where the latter's timesteps are whole numbers."""
    pipe = tiny_xl()
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config, timestep_spacing=spacing)
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(3))
    seen: list[Tensor] = []
    hook = pipe.unet.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][:1]))
    theirs = sampled(pipe, noise, 4, steps=steps)
    hook.remove()
    sigmas = pipe.scheduler.sigmas
    # But for leading spacing the pipeline starts from noise a little smaller than what the model was trained on.
    first = pipe.scheduler.init_noise_sigma / (sigmas[0] ** 2 + 1).sqrt()
    ours = drawn(pipe, first * noise, 4, steps=steps)
    for k in range(1, steps):
        scale = (sigmas[k] ** 2 + 1).sqrt()
        torch.testing.assert_close(ours[k], theirs[k - 1] / scale, rtol=1e-3, atol=5e-3)
        torch.testing.assert_close(ours[k], seen[k], rtol=1e-3, atol=5e-3)
    with must_fail("the scale matters"):
        torch.testing.assert_close(ours[1], theirs[0], rtol=1e-3, atol=5e-3)
    with must_fail("states move from step to step"):
        torch.testing.assert_close(ours[2], seen[1], rtol=1e-3, atol=5e-3)


def test_sizes_and_crops_of_sdxl_reach_the_model() -> None:
    pipe = with_ddim(tiny_xl())
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(3))
    told = {"original_size": (40, 64), "crops_coords_top_left": (3, 5)}
    expected = sampled(pipe, noise, 4, **told)
    plain = drawn(pipe, noise, 4)
    ours = drawn(with_ddim(tiny_xl()), noise, 4, StableDiffusionXL(with_ddim(tiny_xl()), **told))
    torch.testing.assert_close(ours[-1], expected[-1], rtol=1e-4, atol=1e-4)
    with must_fail("they matter"):
        torch.testing.assert_close(plain[-1], expected[-1], rtol=1e-4, atol=1e-3)


# Layers of each group in the small models: esd-x, esd-x-strict, esd-u, full.
COUNTS = {
    "sd1": (16, 8, 67, 83),
    "sd2": (16, 8, 67, 83),
    "sdxl": (20, 10, 75, 95),
    "sd3": (7, 7, 26, 33),
    "sd3.5": (7, 7, 30, 37),
    "flux-dev": (8, 8, 42, 50),
    "flux-schnell": (8, 8, 40, 48),
    "aura-flow": (8, 8, 38, 46),
    "sana": (8, 4, 19, 27),
    "qwen-image": (8, 8, 26, 34),
    "z-image": (8, 8, 29, 37),
    "flux-2": (8, 8, 31, 39),
    "klein": (8, 8, 29, 37),
    "kolors": (20, 10, 76, 96),
    "wan": (8, 4, 18, 26),
}
GROUPS = ("esd-x", "esd-x-strict", "esd-u", "full")


@torch.no_grad()
def prediction(family: Family, prompt: str = "a cat", seed: int = 0, position: int = 2) -> Tensor:
    schedule = family.schedule(STEPS, family.latent_shape(16), 3.0)
    x_t = schedule.noise(torch.Generator().manual_seed(seed), 2)
    with evaluation(family.denoiser):
        return schedule.predict(x_t, torch.tensor([position, position]), family.encode([prompt, prompt]))


@kinds
def test_groups_teacher_and_base(kind: str) -> None:
    counts = []
    for group in GROUPS:
        family = family_of(BUILDERS[kind]())
        base = {key: value.clone() for key, value in family.denoiser.state_dict().items()}
        before = prediction(family)
        adapter = attach(family, group)
        counts.append(len(adapter.selection.names))
        assert torch.equal(prediction(family), before), "a new adapter is the identity"
        with torch.no_grad():
            for parameter in adapter.parameters:
                parameter.add_(0.1)
        with must_fail("the student differs"):
            assert torch.equal(prediction(family), before)
        with adapter.off():
            assert torch.equal(prediction(family), before)
        adapter.detach()
        assert all(torch.equal(value, base[key]) for key, value in family.denoiser.state_dict().items())
        assert torch.equal(prediction(family), before)
    assert tuple(counts) == COUNTS[kind]


# Each family with one group, and each group with a U-Net, with joint attention and with shared layers. The others, and
# families that differ little from these, are slow.
QUICKLY = {
    ("sd1", "esd-u"), ("sdxl", "esd-x"), ("sd3", "esd-x"), ("flux-dev", "esd-u"), ("aura-flow", "esd-u"),
    ("sana", "esd-x"), ("qwen-image", "esd-x"), ("z-image", "esd-x"), ("flux-2", "esd-u"), ("wan", "esd-u"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "group"),
    [
        pytest.param(kind, group, marks=[] if (kind, group) in QUICKLY else pytest.mark.slow)
        for kind in BUILDERS
        for group in ("esd-x", "esd-u")
    ],
)
def test_training_erases_and_the_file_is_the_student(kind: str, group: str, tmp_path: Path) -> None:
    pipe = BUILDERS[kind]()
    family = family_of(pipe)
    e_cond, e_null = (torch.cat([prediction(family, p, seed=99, position=k) for k in (1, 2, 4)]) for p in ("a cat", ""))
    trainer = ESDTrainer(
        pipe,
        family=family,
        group=group,
        num_inference_steps=STEPS,
        iterations=80,
        batch_size=4,
        rank=4,
        learning_rate=1e-2 if group == "esd-x" else 3e-3,
        preserve=(),
        size=16,
    )
    erasure = trainer.erase("a cat")
    losses, aligned = zip(*erasure.provenance.history, strict=True)
    assert aligned[0] == pytest.approx(1.0, abs=1e-3)
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])
    e_student = torch.cat([prediction(family, "a cat", seed=99, position=k) for k in (1, 2, 4)])
    assert alignment(e_student, e_cond, e_null) < 0, "on noise that was not trained on"

    erasure.save_pretrained(tmp_path)
    student, fresh = prediction(family), BUILDERS[kind]()
    with must_fail("without the file it is another model"):
        assert torch.equal(prediction(family_of(fresh)), student)
    fresh.load_lora_weights(tmp_path)
    # torch multiplies by a weight that asks for a gradient in another order.
    family_of(fresh).denoiser.requires_grad_(False)
    assert torch.equal(prediction(family_of(fresh)), student)


def space_of(family: Family, names: list[str], **limits: Any) -> NullSpace:
    """The null space of layers, with few trajectories."""
    kept, concept = ("", "a dog", "a bus"), ("a cat",)
    chosen = Limits(**{"largest_leak": 1e9, **limits})
    prompts = Prompts(
        concept, concept, Preserved(kept), contexts=concept, preserved_runs=kept * 2, concept_runs=concept * 4
    )
    encoded = Encoded(family)
    finder = NullSpaceFinder(family, ESDConfig(rank=2), chosen, prompts, names, encoded, family.latent_shape(16))
    return finder.find()


@kinds
def test_the_null_space_finds_layers(kind: str) -> None:
    """The hooks see every family's layers; on random weights only that can be asked."""
    family = family_of(BUILDERS[kind]())
    names = base_layers(family.denoiser)
    space = space_of(family, names, steps=2)
    assert set(space.fixed_a) == set(names) == set(space.leaks)
    assert all(a.shape == (2, family.denoiser.get_submodule(n).weight[0].numel()) for n, a in space.fixed_a.items())
    assert all(torch.isfinite(a).all() for a in space.fixed_a.values())
    few = sorted(space.leaks.values())[2]
    left = space_of(family_of(BUILDERS[kind]()), names, steps=2, largest_leak=few).fixed_a
    assert set(left) == {name for name, leak in space.leaks.items() if leak <= few}


NORMALISED = ("qwen-image", "z-image")  # their first layer sees normalised token states


@kinds
@torch.no_grad()
def test_text_states_names_the_layers_that_are_given_the_token_states_as_they_are(kind: str) -> None:
    family = family_of(BUILDERS[kind]())
    schedule = family.schedule(STEPS, family.latent_shape(16), 3.0)
    conditioning = family.encode(["a cat"])
    states = conditioning[family.text]
    found: list[str] = []
    for name in base_layers(family.denoiser):
        layer = family.denoiser.get_submodule(name)

        def note(layer: Any, inputs: tuple[Tensor, ...], name: str = name) -> None:
            if inputs[0].shape == states.shape and torch.equal(inputs[0], states):
                found.append(name)

        layer.register_forward_pre_hook(note)
    schedule.predict(schedule.noise(torch.Generator()), torch.tensor([0]), conditioning)
    expected, others = sees_text(family, base_layers(family.denoiser))
    assert sorted(found) == sorted(expected)
    assert bool(expected) == (kind not in NORMALISED)
    assert others


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_keys_and_values_of_cross_attentions_cost_no_evaluation(kind: str) -> None:
    family = family_of(BUILDERS[kind]())
    for names, evaluations in (("attn2.to_k", 0), ("attn1.to_k", (6 + 4) * Limits().steps)):
        chosen = [name for name in base_layers(family.denoiser) if name.endswith(names)]
        space = space_of(family, chosen)
        assert space.evaluations == evaluations
        assert len(space.fixed_a) == len(chosen)


@kinds
def test_the_vocabulary_is_the_tokenizers(kind: str) -> None:
    kept = vocabulary.preserved(Encoded(family_of(BUILDERS[kind]())), ["a cat"], seed=0, limits=Limits()).prompts
    assert "a dog" in kept
    assert "a cat" not in kept


def test_a_refiner_is_refused() -> None:
    pipe = tiny_xl()
    pipe.text_encoder = None
    with pytest.raises(ValueError, match=r"^The pipeline has one text encoder: an SDXL refiner"):
        ESDTrainer(pipe)


def test_a_flow_model_with_another_scheduler_is_refused() -> None:
    pipe = tiny_sd3()
    pipe.scheduler = DDIMScheduler()
    with pytest.raises(
        ValueError, match=r"^The pipeline's scheduler is a DDIMScheduler; give the pipeline the one that its"
    ):
        ESDTrainer(pipe)


def test_the_same_model_in_another_pipeline_is_refused_with_the_way_round() -> None:
    pipe = tiny_xl().to(torch.bfloat16)
    img2img = StableDiffusionXLImg2ImgPipeline.from_pipe(pipe, dtype=pipe.dtype)
    with pytest.raises(TypeError, match=r"Erase with StableDiffusionXLPipeline.from_pipe\(pipe, dtype=pipe.dtype\)"):
        ESDTrainer(img2img)
    quick = {"iterations": 2, "num_inference_steps": 4, "rank": 2, "preserve": ()}
    erased = ESDTrainer(type(pipe).from_pipe(img2img, dtype=img2img.dtype), **quick).erase("a cat", name="ours")
    assert img2img.get_active_adapters() == [erased.name] == pipe.get_active_adapters()
    assert pipe.unet.conv_in.weight.dtype == torch.bfloat16, "the way round changes no weights"


def test_a_distilled_qwen_image_is_refused() -> None:
    pipe = tiny_qwen_image()
    pipe.transformer.register_to_config(guidance_embeds=True)
    with pytest.raises(ValueError, match=r"^The denoiser takes guidance as an input \(guidance_embeds is set\)"):
        ESDTrainer(pipe)


def test_a_wan_of_two_transformers_is_refused() -> None:
    pipe = tiny_wan()
    pipe.scheduler = UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
    ESDTrainer(pipe)  # the control: trained as it is, with the solver that it is published with
    pipe.register_modules(transformer_2=pipe.transformer)
    with pytest.raises(ValueError, match=r"^The pipeline has two transformers, each for a part of the timesteps"):
        ESDTrainer(pipe)


def test_a_wan_in_half_precision_has_parameters_in_float32(tmp_path: Path) -> None:
    pipe = tiny_wan()
    pipe.transformer.save_pretrained(tmp_path)
    half = WanTransformer3DModel.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    pipe.register_modules(transformer=half)
    family = family_of(pipe)
    with must_fail("the first parameter is one of them"):
        assert next(half.parameters()).dtype == torch.bfloat16
    assert family.dtype == prediction(family).dtype == torch.bfloat16


def test_a_wan_trains_on_as_many_frames_as_it_is_told() -> None:
    pipe = tiny_wan()
    assert [Wan(pipe, num_frames=n).latent_shape(16) for n in (81, 1)] == [(4, 3, 8, 8), (4, 1, 8, 8)]


def test_a_flow_with_another_kind_of_solver_is_refused() -> None:
    ESDTrainer(tiny_sana(first_order()))
    for changes in ({"use_flow_sigmas": False}, {"prediction_type": "epsilon"}):
        with pytest.raises(ValueError, match=r"is a DPMSolver.* or one with use_flow_sigmas=True and prediction_type="):
            ESDTrainer(tiny_sana(first_order(**changes)))


def test_a_pipeline_that_loads_no_lora_is_refused_with_that_reason() -> None:
    parts = dict.fromkeys(("tokenizer", "text_encoder", "vae", "transformer", "scheduler"))
    with pytest.raises(TypeError, match=r"^diffusers cannot load LoRA weights into a PixArtSigmaPipeline, which does"):
        ESDTrainer(PixArtSigmaPipeline(**parts))


def test_a_kin_that_does_not_share_the_weights_is_no_way_round() -> None:
    class FluxFillPipeline:
        pass

    with pytest.raises(TypeError, match=r"^Unknown pipeline FluxFillPipeline; expected one of StableDiffusionPipeline"):
        ESDTrainer(FluxFillPipeline())


def test_a_flow_models_channels_are_checked() -> None:
    pipe = tiny_flux()
    pipe.vae.register_to_config(latent_channels=16)
    with pytest.raises(ValueError, match=r"^The denoiser takes 4 channels and the autoencoder makes 16"):
        ESDTrainer(pipe)


def test_a_family_of_another_pipeline_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^`family` belongs to another pipeline"):
        ESDTrainer(tiny_xl(), family=StableDiffusionXL(tiny_xl()))
