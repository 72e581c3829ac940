"""Calibration: the smallest scales that satisfy the bounds, and a pipeline left as it was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from controls import must_fail
from made import made
from pipelines import same, state_of
from tiny import style_adapter, tiny_pipeline, tiny_sd3

from diffusers_esd import Erasure, Recipe, calibrate, merge, stack
from diffusers_esd.denoiser import adapter_names
from diffusers_esd.stacks.calibrate import smallest


def counted(excess: Any) -> tuple[Any, list[tuple[float, ...]]]:
    calls: list[tuple[float, ...]] = []

    def call(scales: Sequence[float]) -> list[float]:
        calls.append(tuple(scales))
        return excess(scales)

    return call, calls


def test_independent_bounds_are_found_to_the_last_step() -> None:
    needed = (0.3, 0.9, 0.55)
    excess, calls = counted(lambda scales: [n - s for n, s in zip(needed, scales, strict=True)])
    found = smallest(excess, [1.0, 1.0, 1.0])
    assert all(n <= scale for n, scale in zip(needed, found, strict=True))
    assert found == pytest.approx(needed, abs=0.04)
    assert len(calls) == 11
    assert tuple(found) in calls, "what is returned was measured"
    with must_fail("one factor for all would be larger"):
        assert sum(found) >= 3 * 0.9


def test_erasures_that_help_one_another_need_less() -> None:
    mixed = torch.tensor([[1.0, 0.3], [0.3, 1.0]])
    found = smallest(lambda scales: (1 - mixed @ torch.tensor(scales)).tolist(), [1.0, 1.0])
    assert found == pytest.approx([1 / 1.3] * 2, abs=0.04)
    assert (mixed @ torch.tensor(found) >= 1).all()


def test_largest_scales_are_never_exceeded_and_are_kept_where_nothing_less_is_enough() -> None:
    found = smallest(lambda scales: [0.8 - scales[0], 1.0 - scales[1]], [0.8, 1.0])
    assert found == [0.8, 1.0]
    assert smallest(lambda scales: [-1.0], [0.5]) == [pytest.approx(0.0, abs=0.02)]


def test_scales_that_are_enough_one_by_one_go_back_until_they_are_enough_together() -> None:
    """Each is enough at 0.5 while the other is at 1: together they need 0.75."""
    excess, calls = counted(lambda scales: [1.5 - sum(scales)] * 2)
    found = smallest(excess, [1.0, 1.0])
    assert sum(found) == pytest.approx(1.5, abs=0.1)
    assert sum(found) >= 1.5
    assert tuple(found) in calls


@pytest.fixture(scope="module")
def erasures() -> tuple[Erasure, Erasure]:
    pipe = tiny_pipeline()
    return made(pipe, "a cat", group="esd-x"), made(pipe, "a dog", group="esd-u", seed=1)


def test_the_pipeline_is_left_as_it_was_found(erasures: tuple[Erasure, Erasure], tmp_path: Path) -> None:
    cat, dog = erasures
    pipe = tiny_pipeline()
    style_adapter(pipe, scale=0.6)
    cat.apply(pipe, 0.4)
    before, names, active = state_of(pipe), adapter_names(pipe.unet), pipe.get_active_adapters()
    randomness = torch.random.get_rng_state()
    folder = dog.save_pretrained(tmp_path / "dog")
    found = calibrate(pipe, {cat: 1.0, str(folder): 0.9})
    assert found.keys() == {cat, str(folder)}
    assert 0 <= found[cat] <= 1
    assert 0 <= found[str(folder)] <= 0.9
    same(before, state_of(pipe))
    assert adapter_names(pipe.unet) == names
    assert pipe.get_active_adapters() == active
    assert torch.equal(randomness, torch.random.get_rng_state())
    fresh = tiny_pipeline()
    style_adapter(fresh, scale=0.6)
    assert list(calibrate(fresh, {cat: 1.0, dog: 0.9}).values()) == list(found.values()), "whatever is loaded already"


def test_two_erasures_of_the_same_kind_need_half_of_each(erasures: tuple[Erasure, Erasure]) -> None:
    pipe = tiny_pipeline()
    # Small, so that the alignment is linear in the scale; the direction of random weights is arbitrary.
    small = [merge({erasures[0]: scale}, name="small") for scale in (0.1, -0.1)]
    cat = min(small, key=lambda e: e.check(pipe, prompts=["a cat"], num_inference_steps=6).named["a cat"])
    strong = merge({cat: 4.0}, name="strong")
    found = calibrate(pipe, [strong, merge({cat: 4.001}, name="again")])
    alone = calibrate(pipe, strong)[strong]
    assert sum(found.values()) == pytest.approx(alone, abs=0.1)
    with must_fail("together, less of each is enough"):
        assert max(found.values()) > 0.8 * alone


def test_a_stack_is_calibrated_and_a_recipe_has_its_entries(erasures: tuple[Erasure, Erasure], tmp_path: Path) -> None:
    cat, dog = erasures
    pipe = tiny_pipeline()
    folders = {str(e.save_pretrained(tmp_path / e.name)): scale for e, scale in ((cat, 1.0), (dog, 0.5))}
    recipe = Recipe.of(folders)
    found = calibrate(pipe, recipe)
    assert found.keys() == folders.keys()
    active = stack(pipe, recipe, calibrate=True)
    assert active == pytest.approx({"no-a-cat": found[str(tmp_path / "no-a-cat")], "no-a-dog": list(found.values())[1]})


def test_an_erasure_without_effect_and_an_adapters_name_are_refused(erasures: tuple[Erasure, Erasure]) -> None:
    cat, dog = erasures
    weights = {key: 0 * weight for key, weight in cat.weights.items()}
    nothing = replace(cat, name="nothing", weights=weights)
    with pytest.raises(ValueError, match=r"^The erasure of a cat leaves it intact: there is nothing to calibrate. "):
        calibrate(tiny_pipeline(), [nothing, dog])
    pipe = tiny_pipeline()
    stack(pipe, cat)
    with pytest.raises(ValueError, match=r"^`calibrate` needs erasures, got 'no-a-cat', the name of an adapter"):
        stack(pipe, ["no-a-cat", dog], calibrate=True)
    assert adapter_names(pipe.unet) == ["no-a-cat"]


def lowers(erasure: Erasure, concept: str) -> bool:
    """Whether an erasure lowers the alignment of a concept."""
    erasure = replace(erasure, provenance=replace(erasure.provenance, concepts=(concept,)))
    return erasure.check(tiny_pipeline(), prompts=["a cat"], num_inference_steps=6).named[concept] < 0.9


def test_what_cannot_be_reached_is_named(erasures: tuple[Erasure, Erasure]) -> None:
    """An erasure and its opposite: together, they do nothing."""
    both = [merge({erasures[0]: scale}, name=name) for name, scale in (("there", 1.0), ("back", -1.0))]
    words = ("a cat", "a bus", "food", "a tree", "a dog", "art", "a church", "a key", "an owl", "a lamp")
    named = []
    for erasure in both:
        concept = next(word for word in words if lowers(erasure, word))
        named.append(replace(erasure, provenance=replace(erasure.provenance, concepts=(concept,))))
    first, second = (erasure.provenance.concepts[0] for erasure in named)
    message = rf"^Together, the erasures leave more of {first}, {second} than alone, even at their largest scales;"
    with pytest.warns(UserWarning, match=message):
        calibrate(tiny_pipeline(), named)


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ((0.0, 1.0), r"^The largest scale of no-a-cat must be above 0, got 0.0.$"),
        ((1.0, float("nan")), "scale"),
    ],
)
def test_wrong_scales(erasures: tuple[Erasure, Erasure], scales: tuple[float, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calibrate(tiny_pipeline(), dict(zip(erasures, scales, strict=True)))


def test_one_name_twice_and_another_family(erasures: tuple[Erasure, Erasure]) -> None:
    cat, _ = erasures
    with pytest.raises(ValueError, match=r"^Two of the erasures have the name 'no-a-cat'; give each erasure once.$"):
        calibrate(tiny_pipeline(), [cat, made(tiny_pipeline(), seed=2)])
    with pytest.raises(ValueError, match=r"^Two of the erasures have the same weights; give each erasure once.$"):
        calibrate(tiny_pipeline(), [cat, replace(cat, name="again")])
    with pytest.raises(ValueError, match="was trained on a pipeline of the family StableDiffusion"):
        calibrate(tiny_sd3(), cat)
