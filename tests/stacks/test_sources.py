"""Erasures are named in the same way everywhere, and a model that they were not trained on is noticed."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from controls import must_fail
from made import made, with_provenance
from pipelines import same, state_of
from tiny import tiny_pipeline

from diffusers_esd import Erasure, Recipe, bake, merge, preview, stack
from diffusers_esd.stacks.sources import load, read, read_all


@pytest.fixture(scope="module")
def erasures() -> tuple[Erasure, Erasure]:
    pipe = tiny_pipeline()
    return made(pipe, "a cat", rank=2), made(pipe, "a dog", rank=3, seed=1)


QUICK = {"num_inference_steps": 1, "side": 32}
VERBS: dict[str, Callable[[Any], Any]] = {
    "stack": lambda erasures: stack(tiny_pipeline(), erasures),
    "merge": lambda erasures: merge(erasures),
    "bake": lambda erasures: bake(tiny_pipeline(), erasures),
    "preview": lambda erasures: preview(tiny_pipeline(), erasures, "a cat", **QUICK),
}


def test_one_source_a_list_and_a_mapping(erasures: tuple[Erasure, Erasure], tmp_path: Path) -> None:
    cat, dog = erasures
    folder = cat.save_pretrained(tmp_path / "no-cat")
    for single in (cat, folder, str(folder), next(folder.glob("*.safetensors"))):
        [(erasure, scale)] = read_all(single)
        assert (erasure.name, scale) == ("no-a-cat", 1.0)
    assert [(e.name, scale) for e, scale in read_all((folder, dog))] == [("no-a-cat", 1.0), ("no-a-dog", 1.0)]
    assert [(e.name, scale) for e, scale in read_all({dog: 0.5, folder: 2})] == [("no-a-dog", 0.5), ("no-a-cat", 2)]
    assert read(cat) is cat


def test_a_recipe_stands_for_its_erasures(erasures: tuple[Erasure, Erasure], tmp_path: Path) -> None:
    cat, dog = (erasure.save_pretrained(tmp_path / erasure.name) for erasure in erasures)
    recipe = Recipe.of({cat: 0.8, dog: 0.5})
    file = recipe.save(tmp_path / "recipe")
    expected = [("no-a-cat", 0.4), ("no-a-dog", 0.25)]
    for source in (recipe, file, str(file), file.parent):
        assert [(e.name, scale) for e, scale in read_all({source: 0.5})] == expected
    assert load(file) == recipe
    with pytest.raises(
        ValueError, match=r"^One erasure is needed, got a recipe. Make one of it with merge\(recipe\).$"
    ):
        read(file)
    beside = recipe.save(cat / "mixed.json")
    assert load(beside) == recipe
    assert isinstance(load(cat), Erasure), "a folder with an erasure is the erasure"


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_no_source_is_an_error(verb: str) -> None:
    with pytest.raises(ValueError, match=r"^`erasures` is empty; give at least one erasure.$"):
        VERBS[verb]([])
    with pytest.raises(TypeError, match=r"^An erasure must be an Erasure, a Recipe, a path or a Hub id, got 3.$"):
        VERBS[verb](3)
    with pytest.raises(FileNotFoundError, match=r"^Nothing to read at nowhere"):
        VERBS[verb]("nowhere")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, "1"])
def test_scales_are_checked_before_anything_changes(
    value: Any, erasures: tuple[Erasure, Erasure], tmp_path: Path
) -> None:
    cat, dog = erasures
    pipe = tiny_pipeline()
    before = state_of(pipe)
    calls: list[Any] = [
        lambda: stack(pipe, {cat: 1.0, dog: value}),
        lambda: bake(pipe, {cat: 1.0, dog: value}, save_to=tmp_path / "baked"),
        lambda: merge({cat: 1.0, dog: value}),
        lambda: preview(pipe, {cat: value}, "a cat"),
        lambda: preview(pipe, cat, "a cat", scales=[1.0, value]),
    ]
    for call in calls:
        with pytest.raises((TypeError, ValueError), match=r"^`scales?` must be "):
            call()
    same(before, state_of(pipe))
    assert list(tmp_path.iterdir()) == []


def test_negative_scales_are_warned_about_once(erasures: tuple[Erasure, Erasure], tmp_path: Path) -> None:
    cat, _ = erasures
    calls: list[Any] = [
        *[lambda verb=verb: verb({cat: -1}) for verb in VERBS.values()],
        lambda: preview(tiny_pipeline(), cat, "a cat", scales=[-1, 1], **QUICK),
    ]
    for call in calls:
        with pytest.warns(UserWarning, match=r"which amplifies the concept.$") as caught:
            call()
        assert [warning.filename for warning in caught] == [__file__]


def test_weights_decide_whether_the_model_is_the_same_and_without_them_its_name(
    erasures: tuple[Erasure, Erasure],
) -> None:
    cat, dog = erasures
    renamed = tiny_pipeline().to(torch.bfloat16)
    renamed.register_to_config(_name_or_path="someone/copy")
    nameless = with_provenance(dog, base_fingerprint="")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        stack(tiny_pipeline(), {cat: 1.0})
        stack(renamed, {cat: 1.0})
        stack(tiny_pipeline(), {nameless: 1.0})
        stack(tiny_pipeline(seed=1), {nameless: 1.0})
        merge([cat, dog, nameless])
    pattern = (
        "^no-a-cat was trained on StableDiffusionPipeline, and this pipeline is StableDiffusionPipeline, with other "
    )
    with pytest.warns(UserWarning, match=pattern) as caught:
        stack(tiny_pipeline(seed=1), {cat: 1.0})
    assert [warning.filename for warning in caught] == [__file__], "it points to the caller's line"
    pattern = "^no-a-dog was trained on StableDiffusionPipeline, and this pipeline is someone/copy. Its effect here is"
    with pytest.warns(UserWarning, match=pattern):
        stack(renamed, {nameless: 1.0})


def test_any_path_like_object_is_a_source(erasures: tuple[Erasure, Erasure], tmp_path: Path) -> None:
    folder = erasures[0].save_pretrained(tmp_path / "no-cat")

    class Pathlike(os.PathLike[str]):
        def __fspath__(self) -> str:
            return str(folder)

    assert read(Pathlike()).name == "no-a-cat"
    with must_fail("another folder is another erasure"):
        assert read(erasures[1].save_pretrained(tmp_path / "no-dog")).name == "no-a-cat"
