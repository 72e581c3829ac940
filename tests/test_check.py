"""`Erasure.check`: alignments by hand, images on fixed seeds, a pipeline left as it was found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from controls import must_fail
from diffusers import FlowMatchEulerDiscreteScheduler
from emoji_sd import load
from made import made, with_provenance
from PIL import ImageChops
from pipelines import same, state_of
from tiny import style_adapter, tiny_flux, tiny_pipeline, tiny_sd3, tiny_xl

from diffusers_esd import Erasure, ESDConfig
from diffusers_esd.families import family_for
from diffusers_esd.limits import Limits
from diffusers_esd.objective import projections
from diffusers_esd.streams import stream
from diffusers_esd.training.encoding import Encoded
from diffusers_esd.training.vocabulary import neighbours

QUICK: dict[str, Any] = {"prompts": ["a cat"], "num_inference_steps": 3}


@torch.no_grad()
def by_hand(pipe: Any, erasure: Erasure, seed: int, erase_from: str | None, anchor: str) -> tuple[float, float]:
    """Both alignments from two pipelines, without any switching of adapters."""
    erased = type(pipe)(**{**pipe.components, "unet": made_on(erasure)}, requires_safety_checker=False).unet
    config = erasure.config or ESDConfig()
    schedule = family_for(pipe).schedule(QUICK["num_inference_steps"], (4, 8, 8), config.guidance_scale)
    states = {p: pipe.encode_prompt(p, "cpu", 1, False)[0] for p in ("", "a cat", erase_from or "a cat", anchor)}
    student = erase_from or "a cat"
    x_t, sums = schedule.noise(stream(seed, "check")), torch.zeros(2, 2)
    for i, t in enumerate(schedule.timesteps):
        base = {prompt: pipe.unet(x_t, t, rows).sample for prompt, rows in states.items()}
        for row, prompt in enumerate((student, "")):
            e = erased(x_t, t, states[prompt]).sample
            origin = base[""] if row else base[erase_from] if erase_from else None
            sums[row] += torch.cat(projections(e, base["a cat"], base[anchor], origin))
        position = torch.tensor([i])
        x_t = schedule.step(schedule.guide(base[""], base[student]), x_t, position, position + 1)
    named, unnamed = (sums[:, 0] / sums[:, 1]).tolist()
    return named, unnamed


def made_on(erasure: Erasure) -> Any:
    pipe = tiny_pipeline()
    erasure.apply(pipe)
    return pipe.unet


@pytest.mark.parametrize(("erase_from", "anchor"), [(None, ""), ("a dog", ""), (None, "an animal")])
def test_alignments_are_those_by_hand(erase_from: str | None, anchor: str) -> None:
    pipe = tiny_pipeline()
    erasure = with_provenance(made(pipe), anchors={"a cat": anchor})
    config = ESDConfig(preserve=(), erase_from=erase_from)
    erasure = Erasure(erasure.name, erasure.weights, config, erasure.provenance)
    check = erasure.check(pipe, **QUICK, seeds=5)
    named, unnamed = by_hand(tiny_pipeline(), erasure, 5, erase_from, anchor)
    assert check.named == {"a cat": pytest.approx(named, abs=1e-3)}
    assert check.unnamed == {"a cat": pytest.approx(unnamed, abs=1e-3)}
    with must_fail("another seed gives other states"):
        assert by_hand(tiny_pipeline(), erasure, 6, erase_from, anchor)[0] == pytest.approx(named, abs=1e-5)
    assert str(check) == f"a cat: alignment {named:.2f} where it is named, {unnamed:.2f} where it is not"


@pytest.mark.parametrize("build", [tiny_pipeline, tiny_xl, tiny_sd3, tiny_flux])
def test_an_erasure_that_does_nothing_leaves_all_as_it_is(build: Any) -> None:
    pipe = build()
    pipe.vae.register_to_config(shift_factor=0.0)
    erasure = made(pipe)
    nothing = Erasure("no-cat", {key: 0 * weight for key, weight in erasure.weights.items()}, None, erasure.provenance)
    check = nothing.check(pipe, **QUICK)
    assert check.named == {"a cat": pytest.approx(1.0, abs=1e-4)}
    assert check.unnamed == {"a cat": pytest.approx(0.0, abs=1e-4)}
    assert is_pairwise_equal(check.picture)
    with must_fail("one with weights changes the images"):
        assert is_pairwise_equal(erasure.check(pipe, **QUICK).picture)


def is_pairwise_equal(picture: Any) -> bool:
    """Whether the two images of each seed are equal: the columns are 198 pixels wide, after the labels."""
    left = picture.width - 4 * 198
    tiles = [picture.crop((left + i * 198, 30, left + i * 198 + 192, picture.height)) for i in range(4)]
    return all(ImageChops.difference(tiles[i], tiles[i + 1]).getbbox() is None for i in (0, 2))


STATES = ["absent", "present", "under another name", "twice", "another of the name"]


@pytest.mark.parametrize("state", STATES)
def test_the_pipeline_is_left_as_it_was_found_and_the_result_does_not_depend_on_it(state: str) -> None:
    pipe = tiny_pipeline()
    style_adapter(pipe)
    erasure, other = made(pipe), made(pipe, seed=1)
    if state in ("present", "twice"):
        erasure.apply(pipe, 0.3)
    if state in ("under another name", "twice"):
        erasure.apply(pipe, 0.7, name="copy")
    if state == "another of the name":
        other.apply(pipe, 0.3)
    before, active, randomness = state_of(pipe), pipe.get_active_adapters(), torch.random.get_rng_state()
    check = erasure.check(pipe, **QUICK)
    same(before, state_of(pipe))
    assert pipe.get_active_adapters() == active
    assert torch.equal(randomness, torch.random.get_rng_state())
    fresh = tiny_pipeline()
    style_adapter(fresh)
    if state == "another of the name":
        other.apply(fresh, 0.3, name="other")
    assert erasure.check(fresh, **QUICK).named == {"a cat": pytest.approx(check.named["a cat"], abs=1e-5)}


def test_the_picture_stays_with_the_erasure_and_its_folder(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    erasure = made(pipe)
    assert erasure.picture is None
    erasure.save_pretrained(tmp_path)
    assert not (tmp_path / "check.png").exists()
    check = erasure.check(pipe, **QUICK)
    assert erasure.picture is check.picture
    erasure.save_pretrained(tmp_path)
    again = Erasure.from_pretrained(tmp_path)
    assert again.picture is not None
    assert again.picture.tobytes() == check.picture.tobytes()


def test_by_default_the_nearest_words_are_drawn_too() -> None:
    pipe = load()
    near = neighbours(Encoded(family_for(pipe)), ["a cat"], 2, limits=Limits())
    assert len(near) == 2
    assert "a cat" not in near
    words = {word.removeprefix("a ") for word in near}
    assert not words & {"urch", "yle", "wberry"}, "fragments of words are left out"
    erasure = made(pipe)
    config = ESDConfig(preserve=("a dog", "a bus", "a key"), group="esd-u")
    erasure = Erasure(erasure.name, erasure.weights, config, erasure.provenance)
    height = erasure.check(pipe, num_inference_steps=2, seeds=[0]).picture.height
    assert height > 3 * 192, "the concept, and two of the list"
    assert height < 4 * 192


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"seeds": []}, ValueError, "^`seeds` is empty; give at least one.$"),
        ({"seeds": [1.5]}, TypeError, "^`seeds` must be whole numbers, got 1.5 of type float.$"),
        ({"prompts": [""]}, ValueError, "^`prompts` is empty: got ''; give the words of a prompt.$"),
        ({"num_inference_steps": 0}, ValueError, "^`num_inference_steps` must be 1 or more, got 0.$"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    pipe = tiny_pipeline()
    with pytest.raises(kind, match=message):
        made(pipe).check(pipe, **options)


def test_an_erasure_of_another_architecture_is_refused() -> None:
    erasure = made(tiny_pipeline())
    with pytest.raises(ValueError, match=r"^The erasure was trained on another architecture"):
        with_provenance(erasure, component="unet").check(tiny_xl(), **QUICK)


def test_what_the_trainer_refuses_is_refused() -> None:
    pipe = tiny_pipeline()
    erasure = made(pipe)
    with pytest.raises(ValueError, match=r"^`family` belongs to another pipeline"):
        erasure.check(pipe, family=family_for(tiny_pipeline()))
    with pytest.raises(ValueError, match=r"^The adapter name 'keys' is reserved"):
        Erasure("keys", erasure.weights, None, erasure.provenance).check(pipe)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ValueError, match=r"does not have betas"):
        erasure.check(pipe)


def test_what_the_student_was_trained_on_is_drawn_and_neighbours_of_plain_trainings_too() -> None:
    pipe = load()
    erasure = made(pipe)
    for config, rows in ((ESDConfig(preserve=()), 3), (ESDConfig(preserve=("a dog",), erase_from="an animal"), 3)):
        erasure = Erasure(erasure.name, erasure.weights, config, erasure.provenance)
        height = erasure.check(pipe, num_inference_steps=1, seeds=[0]).picture.height
        assert rows * 192 < height < (rows + 1) * 192
