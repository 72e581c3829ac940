"""Distilled models: guidance as an input is exactly the paper's, and a base model's file acts in its distilled ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from controls import must_fail
from diffusers import LCMScheduler
from pipelines import alignment
from tiny import tiny_flux, tiny_pipeline, tiny_unet, tiny_xl
from tiny_language import tiny_flux_2
from torch import Tensor
from torch.nn.functional import mse_loss

from diffusers_esd import Erasure, ESDTrainer
from diffusers_esd.families import Conditioning, Family, Flux, Flux2, StableDiffusion, family_for

QUICK: dict[str, Any] = {"group": "esd-u", "num_inference_steps": 5, "rank": 2, "preserve": (), "batch_size": 2}


class Distilled(StableDiffusion):
    """A small model as if its guidance had been distilled without an error: it predicts `e_null + g (e - e_null)`."""

    def __init__(self, pipe: Any) -> None:
        super().__init__(pipe)
        self._frozen, self._empty = copy.deepcopy(pipe.unet), self.encode([""])["encoder_hidden_states"]

    def predict(self, x_t: Tensor, t: Tensor, conditioning: Conditioning, guidance_scale: float) -> Tensor:
        with torch.no_grad():
            e_null = self._frozen(x_t, t, self._empty.expand(len(x_t), -1, -1), return_dict=False)[0]
        return super().guide(e_null, super().predict(x_t, t, conditioning, guidance_scale), guidance_scale)

    def guide(self, e_null: Tensor, e: Tensor, guidance_scale: float) -> Tensor:
        return e


def erased(kind: Callable[[Any], Family], g: float, **options: Any) -> Erasure:
    pipe = tiny_pipeline()
    options = {**QUICK, "iterations": 12, "learning_rate": 1e-3, "guidance_scale": g, **options}
    return ESDTrainer(pipe, family=kind(pipe), **options).erase("a cat")


@pytest.mark.parametrize(
    "options",
    [{}, {"eta": 3.0}, {"anchor": "a dog"}, {"erase_from": "an animal"}, {"preserve": ("a dog",), "null_space": False}],
    ids=["paper", "eta", "anchor", "erase-from", "preserve"],
)
def test_training_with_guidance_as_an_input_is_the_training_of_the_model_before_distillation(
    options: dict[str, Any],
) -> None:
    """Update for update, with the same eta: the target commutes with guidance. The loss has the factor g^2."""
    g = 3.5
    base, ours = erased(StableDiffusion, g, **options), erased(Distilled, g, **options)
    for (loss, along), (our_loss, our_along) in zip(base.provenance.history, ours.provenance.history, strict=True):
        assert our_loss == pytest.approx(g**2 * loss, rel=1e-2)
        assert our_along == pytest.approx(along, abs=2e-3)
    trained, our_trained = (torch.cat([value.flatten() for value in e.weights.values()]) for e in (base, ours))
    assert (our_trained - trained).norm() < 0.01 * trained.norm(), "but for Adam's epsilon"
    divided = erased(Distilled, g, **{**options, "eta": options.get("eta", 1.0) / g})
    with must_fail("with eta / g the first target is another, for the model before distillation too"):
        assert divided.provenance.history[0][0] == pytest.approx(g**2 * base.provenance.history[0][0], rel=0.1)


def test_guidance_leads_to_the_same_images_before_and_after_distillation() -> None:
    """With eta / g, the concept would be pushed away g times less in what is drawn."""
    torch.manual_seed(0)
    g, eta = 3.5, 1.0
    e_null, e_cond = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    embedded = e_null + g * (e_cond - e_null)
    drawn_before = e_null + g * (e_null - eta * (e_cond - e_null) - e_null)
    torch.testing.assert_close(e_null - eta * (embedded - e_null), drawn_before)
    with must_fail("eta / g"):
        torch.testing.assert_close(e_null - eta / g * (embedded - e_null), drawn_before)


@pytest.mark.parametrize(("build", "kind"), [(tiny_flux, Flux), (tiny_flux_2, Flux2)], ids=["flux", "flux-2"])
@pytest.mark.parametrize("eta", [1.0, 2.0])
def test_the_first_loss_of_real_models_that_take_guidance(build: Any, kind: type[Family], eta: float) -> None:
    calls: list[tuple[Tensor, float]] = []

    class Recorded(kind):  # type: ignore[misc, valid-type]
        def predict(self, x_t: Tensor, t: Tensor, conditioning: Conditioning, guidance_scale: float) -> Tensor:
            e = super().predict(x_t, t, conditioning, guidance_scale)
            calls.append((e.detach(), guidance_scale))
            return e

    options = {**QUICK, "num_inference_steps": 1, "trajectory": "fresh", "eta": eta, "guidance_scale": 3.5, "size": 16}
    pipe = build()
    erasure = ESDTrainer(pipe, family=Recorded(pipe, max_sequence_length=48), iterations=1, **options).erase("a cat")
    (teacher, _), (student, _) = calls
    e_null, e_cond = teacher.chunk(2)
    assert {g for _, g in calls} == {3.5}
    torch.testing.assert_close(student, e_cond)
    ((loss, along),) = erasure.provenance.history
    assert loss == pytest.approx((1 + eta) ** 2 * mse_loss(e_cond, e_null).item(), rel=1e-4)
    assert along == pytest.approx(1, abs=1e-4)
    with must_fail("the scale reaches the denoiser"):
        assert torch.equal(at_states(pipe, "a cat", 1.0), at_states(pipe, "a cat", 3.5))


def moved(model: Any, source: Any) -> Any:
    """A model with the weights of another, a little moved: what distillation does to weights, in small."""
    generator = torch.Generator().manual_seed(0)
    state = {
        key: value + 0.02 * value.std(correction=0) * torch.randn(value.shape, generator=generator)
        for key, value in source.state_dict().items()
    }
    missing, _ = model.load_state_dict(state, strict=False)
    assert all("cond_proj" in key for key in missing)
    return model


def with_texts_of(base: Any, pipe: Any) -> Any:
    """A pipeline with the text encoders of another, which distillation keeps."""
    pipe.register_modules(**{name: part for name, part in base.components.items() if name.startswith("text_encoder")})
    return pipe


def few_steps(base: Any, pipe: Any) -> Any:
    """A distilled sibling: other weights, and the scheduler of a latent consistency model."""
    with_texts_of(base, pipe)
    moved(family_for(pipe).denoiser, family_for(base).denoiser)
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    return pipe


SIBLINGS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "sdxl-turbo": (tiny_xl, tiny_xl),
    "lcm": (tiny_pipeline, lambda: tiny_pipeline(unet=tiny_unet(time_cond_proj_dim=8))),
}


@torch.no_grad()
def at_states(pipe: Any, prompt: str, guidance_scale: float = 3.0) -> Tensor:
    """A model's predictions at three timesteps of the same noise."""
    family = family_for(pipe)
    noise = torch.randn((4, *family.latent_shape(16)), generator=torch.Generator().manual_seed(9))
    conditioning = family.encode([prompt] * 4)
    return torch.cat(
        [family.predict(noise, torch.full((4,), t), conditioning, guidance_scale) for t in (799, 599, 199)]
    )


@pytest.mark.parametrize("kind", SIBLINGS)
def test_a_file_of_the_base_acts_in_its_distilled_sibling(kind: str, tmp_path: Path) -> None:
    build, build_sibling = SIBLINGS[kind]
    base, sibling = build(), few_steps(build(), build_sibling())
    options = {**QUICK, "iterations": 80, "batch_size": 4, "rank": 4, "learning_rate": 3e-3, "size": 16}
    ESDTrainer(base, **options).erase("a cat").save_pretrained(tmp_path)
    e_cond, e_null = at_states(sibling, "a cat"), at_states(sibling, "")
    sibling.load_lora_weights(tmp_path)
    after = alignment(at_states(sibling, "a cat"), e_cond, e_null)
    assert after < 0.3
    draw = {"num_inference_steps": 2, "output_type": "latent", "generator": torch.Generator().manual_seed(0)}
    with_it = sibling("a cat", height=16, width=16, **draw)[0]
    sibling.unload_lora_weights()
    assert torch.isfinite(with_it).all()
    with must_fail("without the file the sibling draws the concept"):
        assert alignment(at_states(sibling, "a cat"), e_cond, e_null) < 0.3
    draw["generator"] = torch.Generator().manual_seed(0)
    with must_fail("the file changes its images"):
        torch.testing.assert_close(sibling("a cat", height=16, width=16, **draw)[0], with_it, rtol=0.01, atol=0.01)


def flux_and_schnell() -> tuple[Any, Any]:
    """A Flux dev that does not use the guidance that it takes, and a schnell of the same weights without its layers."""
    base = tiny_flux()
    schnell = with_texts_of(base, tiny_flux(guidance_embeds=False))
    with torch.no_grad():
        for parameter in base.transformer.time_text_embed.guidance_embedder.linear_2.parameters():
            parameter.zero_()
    missing, unexpected = schnell.transformer.load_state_dict(base.transformer.state_dict(), strict=False)
    assert not missing
    assert all("guidance_embedder" in key for key in unexpected)
    return base, schnell


def test_a_file_of_flux_dev_acts_in_schnell(tmp_path: Path) -> None:
    base, schnell = flux_and_schnell()
    options = {**QUICK, "group": "esd-x", "iterations": 4, "learning_rate": 1e-2, "size": 16}
    erasure = ESDTrainer(base, **options).erase("a cat")
    assert not any("guidance_embedder" in key for key in erasure.weights)
    erasure.save_pretrained(tmp_path)
    student = at_states(base, "a cat")
    with must_fail("without the file"):
        torch.testing.assert_close(at_states(schnell, "a cat"), student)
    schnell.load_lora_weights(tmp_path)
    torch.testing.assert_close(at_states(schnell, "a cat"), student)


def test_layers_of_the_guidance_that_schnell_does_not_have_are_skipped(tmp_path: Path) -> None:
    """Plain training of all layers trains them; the rest of the file acts."""
    base, schnell = flux_and_schnell()
    erasure = ESDTrainer(base, **{**QUICK, "iterations": 4, "learning_rate": 1e-2, "size": 16}).erase("a cat")
    assert any("guidance_embedder" in key for key in erasure.weights)
    erasure.save_pretrained(tmp_path)
    before = at_states(schnell, "a cat")
    schnell.load_lora_weights(tmp_path)
    assert schnell.get_active_adapters()
    with must_fail("it changes predictions"):
        torch.testing.assert_close(at_states(schnell, "a cat"), before, rtol=1e-3, atol=1e-3)
