"""The pipeline as its user has it: half precision, offloaded, compiled, with adapters; and afterwards as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from controls import must_fail
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from diffusers.hooks.group_offloading import _is_group_offload_enabled
from emoji_sd.text import LENGTH
from pipelines import same, state_of
from tiny import latents, style_adapter, tiny_flux, tiny_pipeline, tiny_sd3, tiny_xl
from torch import Tensor

from diffusers_esd import Erasure, ESDTrainer, Limits, Progress

QUICK: dict[str, Any] = {"num_inference_steps": 5, "iterations": 4, "rank": 2, "learning_rate": 1e-2, "preserve": ()}


Way = Callable[[StableDiffusionPipeline], None]


def offloaded(pipe: StableDiffusionPipeline) -> None:
    pipe.enable_model_cpu_offload(device="cpu")


def group_offloaded(pipe: StableDiffusionPipeline) -> None:
    options = {"onload_device": torch.device("cpu"), "offload_device": torch.device("cpu")}
    pipe.unet.enable_group_offload(**options, offload_type="leaf_level")


def compiled(pipe: StableDiffusionPipeline) -> None:
    pipe.unet = torch.compile(pipe.unet, backend="eager")


def compiled_in_place(pipe: StableDiffusionPipeline) -> None:
    pipe.unet.compile(backend="eager")


def sliced(pipe: StableDiffusionPipeline) -> None:
    pipe.enable_attention_slicing()
    pipe.vae.enable_slicing()


def checkpointed(pipe: StableDiffusionPipeline) -> None:
    pipe.unet.enable_gradient_checkpointing()


def channels_last(pipe: StableDiffusionPipeline) -> None:
    pipe.unet.to(memory_format=torch.channels_last)


def classic_attention(pipe: StableDiffusionPipeline) -> None:
    pipe.unet.set_default_attn_processor()


WAYS = [offloaded, group_offloaded, compiled, compiled_in_place, sliced, checkpointed, channels_last, classic_attention]


def marks(pipe: StableDiffusionPipeline) -> dict[str, Any]:
    """What of a pipeline the ways above change."""
    unet = getattr(pipe.unet, "_orig_mod", pipe.unet)
    return {
        "compiled": (hasattr(pipe.unet, "_orig_mod"), unet._compiled_call_impl is None),
        "offloaded": {name: hasattr(model, "_hf_hook") for name, model in pipe.components.items()},
        "grouped": _is_group_offload_enabled(unet),
        "checkpointed": unet.is_gradient_checkpointing,
        "processors": {name: type(processor).__name__ for name, processor in unet.attn_processors.items()},
    }


def stop(progress: Progress, end: str) -> None:
    """End a training after its first iteration, if it is not to be done."""
    if end != "done":
        raise {"failed": RuntimeError, "interrupted": KeyboardInterrupt}[end]


@cache
def without_a_way(end: str) -> tuple[Erasure, Tensor]:
    """What a pipeline as it is built is trained to, and what it then draws."""
    pipe = tiny_pipeline()
    return ESDTrainer(pipe, **QUICK).erase("a cat", callback=partial(stop, end=end)), latents(pipe)


@contextmanager
def tracing(enabled: bool) -> Iterator[None]:
    """Let PyTorch's compiler trace what is compiled, which takes most of a minute, or run it as it is."""
    with torch.compiler.set_stance("default" if enabled else "force_eager"):
        yield
    torch.compiler.reset()


def and_traced(ways: Sequence[Way]) -> list[Any]:
    """Each way without tracing, and those that compile also with it."""
    compiling = [way for way in ways if way in (compiled, compiled_in_place)]
    return [(way, False) for way in ways] + [pytest.param(way, True, marks=pytest.mark.slow) for way in compiling]


@pytest.mark.parametrize(("way", "traced"), and_traced(WAYS))
@pytest.mark.parametrize("end", ["done", "failed", "interrupted"])
def test_ways_to_run_a_pipeline(way: Way, traced: bool, end: str) -> None:
    """Trained as without it, and afterwards as it was."""
    with tracing(traced):
        check_way(way, end)


def check_way(way: Way, end: str) -> None:
    pipe, callback = tiny_pipeline(), partial(stop, end=end)
    way(pipe)
    before, picture = marks(pipe), latents(pipe)
    if end == "failed":
        with pytest.raises(RuntimeError):
            ESDTrainer(pipe, **QUICK).erase("a cat", callback=callback)
        assert torch.equal(latents(pipe), picture)
    else:
        expected, drawn = without_a_way(end)
        erasure = ESDTrainer(pipe, **QUICK).erase("a cat", callback=callback)
        assert erasure.provenance.iterations == (1 if end == "interrupted" else 4)
        for key, value in expected.weights.items():
            torch.testing.assert_close(erasure.weights[key], value, rtol=1e-2, atol=1e-3)
        torch.testing.assert_close(latents(pipe), drawn, rtol=1e-3, atol=1e-3)
        if end == "done":
            with must_fail("the erasure is active"):
                assert torch.allclose(latents(pipe), picture, atol=1e-2)
        erasure.remove(pipe)
        torch.testing.assert_close(latents(pipe), picture, rtol=1e-4, atol=1e-4)
        erasure.apply(pipe)
    assert marks(pipe) == before


LONGER: dict[str, Any] = {**QUICK, "iterations": 40, "batch_size": 4, "rank": 4}


@pytest.fixture(scope="module")
def full() -> Erasure:
    """Trained in full precision."""
    return ESDTrainer(tiny_pipeline(), **LONGER).erase("a cat")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_learns_what_full_precision_does(dtype: torch.dtype, full: Erasure) -> None:
    pipe = tiny_pipeline().to(dtype)
    half = ESDTrainer(pipe, **LONGER).erase("a cat")
    assert half.provenance.alignment == pytest.approx(full.provenance.alignment, abs=0.15)
    with must_fail("it learns"):
        assert full.provenance.alignment >= 0.6
    assert {value.dtype for value in half.weights.values()} == {torch.float32}
    assert {p.dtype for name, p in pipe.unet.named_parameters() if "lora_" not in name} == {dtype}


def test_float16_is_trained_on_top_of_other_adapters() -> None:
    pipe = tiny_pipeline().to(torch.float16)
    style_adapter(pipe)
    before = state_of(pipe)
    ESDTrainer(pipe, **QUICK).erase("a cat")
    same(before, state_of(pipe))


def test_beside_is_as_if_the_others_were_not_there() -> None:
    alone, pipe = tiny_pipeline(), tiny_pipeline()
    style_adapter(pipe)
    ESDTrainer(pipe, **QUICK).erase("a dog")
    erasure = ESDTrainer(pipe, **QUICK).erase("a cat", beside=["no-a-dog", "style"])
    assert pipe.get_active_adapters() == ["style", "no-a-dog", "no-a-cat"]
    expected = ESDTrainer(alone, **QUICK).erase("a cat")
    assert all(torch.equal(value, erasure.weights[key]) for key, value in expected.weights.items())
    on_top = ESDTrainer(pipe, **QUICK).erase("a cat", name="on-top")
    with must_fail("on top of the others is not as without them"):
        assert all(torch.equal(value, on_top.weights[key]) for key, value in expected.weights.items())


def test_after_a_failure_those_beside_are_active_again() -> None:
    def fail(progress: Progress) -> None:
        raise RuntimeError

    pipe = tiny_pipeline()
    style_adapter(pipe)
    before, picture = state_of(pipe), latents(pipe)
    with pytest.raises(RuntimeError):
        ESDTrainer(pipe, **QUICK).erase("a cat", beside="style", callback=fail)
    same(before, state_of(pipe))
    assert torch.equal(latents(pipe), picture)


def test_beside_names_what_is_there() -> None:
    pipe = tiny_pipeline()
    style_adapter(pipe)
    with pytest.raises(ValueError, match=r"^There is no adapter 'no-dog' on this pipeline; adapters on it: style.$"):
        ESDTrainer(pipe, **QUICK).erase("a cat", beside=["no-dog"])


def test_a_textual_inversion_can_be_erased() -> None:
    pipe = tiny_pipeline()
    pipe.tokenizer = deepcopy(pipe.tokenizer)  # All tiny pipelines share it, and this one gets a token more.
    token = torch.randn(16, generator=torch.Generator().manual_seed(0)) * 50
    pipe.load_textual_inversion({"<my-token>": token})
    erasure = ESDTrainer(pipe, **QUICK).erase("<my-token>")
    assert erasure.name == "no-my-token"
    assert erasure.provenance.history[0][0] > 1e-4, "it has a direction of its own"


@pytest.mark.parametrize("build", [tiny_pipeline, tiny_xl])
def test_a_long_prompt_is_cut_with_a_warning(build: Callable[[], Any]) -> None:
    prompt = "a cat " * 20 + "rocket"
    with pytest.warns(UserWarning, match=f"^The prompt '{prompt}' is longer than the {LENGTH} tokens that") as caught:
        ESDTrainer(build(), **QUICK).erase(prompt)
    assert sum("is longer than" in str(warning.message) for warning in caught) == 1


@pytest.mark.parametrize("build", [tiny_pipeline, tiny_xl, tiny_sd3, tiny_flux])
def test_fused_projections_are_refused_and_leave_nothing_behind(build: Callable[[], Any]) -> None:
    pipe = build()
    denoiser = pipe.components["unet" if "unet" in pipe.components else "transformer"]
    expected = ESDTrainer(build(), **QUICK, size=16).erase("a cat")
    denoiser.fuse_qkv_projections()
    with pytest.raises(ValueError, match=r"Call pipe.unfuse_qkv_projections\(\) first.$"):
        ESDTrainer(pipe, **QUICK, size=16)
    denoiser.unfuse_qkv_projections()
    erasure = ESDTrainer(pipe, **QUICK, size=16).erase("a cat")
    assert erasure.weights.keys() == expected.weights.keys()
    erasure.apply(build())


def test_an_ip_adapter_is_refused() -> None:
    pipe = tiny_pipeline()
    pipe.unet.register_to_config(encoder_hid_dim_type="ip_image_proj")
    with pytest.raises(ValueError, match=r"Call pipe.unload_ip_adapter\(\) first.$"):
        ESDTrainer(pipe)


def test_a_failure_while_attaching_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise torch.OutOfMemoryError

    pipe = tiny_pipeline()
    style_adapter(pipe)
    before, picture = state_of(pipe), latents(pipe)
    monkeypatch.setattr("diffusers_esd.adapter.stream", fail)
    with pytest.raises(torch.OutOfMemoryError):
        ESDTrainer(pipe, **QUICK).erase("a cat")
    same(before, state_of(pipe))
    assert torch.equal(latents(pipe), picture)


# Few trajectories: what they find is not looked at here, only that it is found.
CONFINED: dict[str, Any] = {
    **QUICK,
    "iterations": 1,
    "preserve": ("a dog", "a bus"),
    "limits": Limits(largest_leak=float("inf"), steps=2, trajectories=8, concept_trajectories=4),
}


@pytest.fixture(scope="module")
def confined() -> Erasure:
    """Trained within the null space, on a pipeline as it is built."""
    return ESDTrainer(tiny_pipeline(), **CONFINED).erase("a cat")


def test_a_denoiser_that_the_user_has_compiled_trains_compiled() -> None:
    calls: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        return lambda *arguments: calls.append(1) or graph(*arguments)

    # One call of the teacher and one of the student: each is traced.
    once = {**QUICK, "iterations": 1, "num_inference_steps": 1, "trajectory": "fresh", "group": "esd-x-strict"}
    torch.compiler.reset()
    pipe = tiny_pipeline()
    expected = ESDTrainer(tiny_pipeline(), **once).erase("a cat")
    with must_fail("it is not compiled yet"):
        assert calls
    pipe.unet = torch.compile(pipe.unet, backend=backend)
    erasure = ESDTrainer(pipe, **once).erase("a cat")
    assert calls
    for key, value in expected.weights.items():
        torch.testing.assert_close(erasure.weights[key], value, rtol=1e-2, atol=1e-3)
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("way", "traced"), and_traced([offloaded, group_offloaded, compiled, compiled_in_place, checkpointed])
)
def test_the_null_space_is_found_on_any_of_them(way: Way, traced: bool, confined: Erasure) -> None:
    pipe = tiny_pipeline()
    way(pipe)
    before = marks(pipe)
    with tracing(traced):
        erasure = ESDTrainer(pipe, **CONFINED).erase("a cat")
    assert marks(pipe) == before
    assert erasure.weights.keys() == confined.weights.keys()
    for key, (a, b) in erasure.layers().items():
        theirs = confined.layers()[key]
        assert a.shape == theirs[0].shape
        assert torch.isfinite(b).all()


def test_the_users_seed_is_as_it_was_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(seed: int) -> None:
        raise AssertionError("other devices were seeded")

    pipe = tiny_pipeline()
    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    ESDTrainer(pipe, **QUICK).erase("a cat")


@pytest.mark.parametrize("kind", [StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline])
def test_pipelines_of_the_same_model_are_erased_through_from_pipe(kind: type) -> None:
    pipe = kind(**tiny_pipeline().components, requires_safety_checker=False)
    with pytest.raises(TypeError, match=r"Erase with StableDiffusionPipeline.from_pipe\(pipe, dtype=pipe.dtype\)"):
        ESDTrainer(pipe)
    ESDTrainer(StableDiffusionPipeline.from_pipe(pipe), **QUICK).erase("a cat")
    assert pipe.get_active_adapters() == ["no-a-cat"]


def test_a_controlnet_pipeline_is_erased_through_from_pipe() -> None:
    base = tiny_pipeline()
    pipe = StableDiffusionControlNetPipeline(
        **base.components, controlnet=ControlNetModel.from_unet(base.unet), requires_safety_checker=False
    )
    with pytest.raises(TypeError, match=r"Erase with StableDiffusionPipeline.from_pipe\(pipe, dtype=pipe.dtype\)"):
        ESDTrainer(pipe)
    ESDTrainer(StableDiffusionPipeline.from_pipe(pipe), **QUICK).erase("a cat")
    assert pipe.get_active_adapters() == ["no-a-cat"]


def sibling(kind: type, pipe: StableDiffusionPipeline) -> Any:
    """A pipeline for another task, with the models of `pipe`."""
    if kind is not StableDiffusionControlNetPipeline:
        return kind.from_pipe(pipe)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = ControlNetModel.from_unet(tiny_pipeline().unet, conditioning_embedding_out_channels=(4, 8))
        with torch.no_grad():
            for parameter in net.parameters():  # A new one adds nothing: its last layers are zero.
                parameter.add_(torch.randn(parameter.shape), alpha=0.3)
    return kind.from_pipe(pipe, controlnet=net)


def edited(pipe: Any, brightness: float = 1.0) -> Tensor:
    """What a pipeline makes of a picture, (1, 3, 16, 16)."""
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand((1, 3, 16, 16), generator=generator) * brightness
    left = (torch.arange(16) < 8).float().expand(1, 1, 16, 16)
    options = {"strength": 0.8} if isinstance(pipe, StableDiffusionImg2ImgPipeline) else {}
    options |= {"mask_image": left} if isinstance(pipe, StableDiffusionInpaintPipeline) else {}
    options |= {"num_inference_steps": 4, "guidance_scale": 4.0, "output_type": "pt"}
    return pipe("a cat", image=picture, generator=generator, **options).images


@pytest.mark.parametrize(
    "kind", [StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionControlNetPipeline]
)
def test_an_erasure_draws_in_other_pipelines_of_the_model(kind: type, tmp_path: Path) -> None:
    trained = tiny_pipeline()
    erasure = ESDTrainer(trained, **QUICK).erase("a cat")
    pipe, base = sibling(kind, trained), edited(sibling(kind, tiny_pipeline()))
    erased = edited(pipe)
    with must_fail("the erasure is active"):
        torch.testing.assert_close(erased, base, rtol=0, atol=0.02)
    with must_fail("the given picture matters"):
        torch.testing.assert_close(erased, edited(pipe, brightness=0.5), rtol=0, atol=1e-3)
    pipe.set_adapters([erasure.name], [0.0])
    assert torch.equal(edited(pipe), base)
    pipe.set_adapters([erasure.name], [1.0])
    assert torch.equal(edited(pipe), erased)
    erasure.remove(pipe)
    assert torch.equal(edited(pipe), base)

    erasure.save_pretrained(tmp_path / "no-cat")
    other = sibling(kind, tiny_pipeline())
    Erasure.from_pretrained(tmp_path / "no-cat").apply(other)
    assert torch.equal(edited(other), erased)
