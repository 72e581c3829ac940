"""The comparison of layers on the small model with joint attention."""

from __future__ import annotations

import json
from pathlib import Path

import joint_attention
import pytest
from controls import must_fail
from emoji_sd.joint import load_joint
from made import made

from diffusers_esd.denoiser import base_layers
from diffusers_esd.families import family_for
from diffusers_esd.groups import select


def figures(erased: float, others: float) -> str:
    return json.dumps({"erased": {"cat": erased}, "others": others, "styles": 0.8, "unnamed": {"cat": 0.1}})


def test_a_row_has_rates_beside_the_base_models(tmp_path: Path) -> None:
    for name, text in (("base", figures(1.0, 0.5)), ("0", figures(0.2, 0.4))):
        path = tmp_path / "figures" / name / "cat.json"
        path.parent.mkdir(parents=True)
        path.write_text(text, encoding="utf-8")
    erasure = made(load_joint(), group="esd-x", rank=1)
    erasure.save_pretrained(joint_attention.folder(tmp_path, next(iter(joint_attention.RECIPES)), "cat"))
    _, _, base, first, second, *_ = joint_attention.table(tmp_path).splitlines()
    assert base == "| base model |  | 1.00 (1.00) | 1.00 | 1.00 | 0.10 | - | - | - |"
    assert first.endswith(f"| {len(erasure.layers())} | 0.20 (0.20) | 0.80 | 1.00 | 0.10 | - | - | - |")
    assert second.endswith("| none | - | - | - | - | - | - | - |")


def test_every_row_selects_other_layers() -> None:
    family = family_for(load_joint())
    layers, modules = base_layers(family.denoiser), [name for name, _ in family.denoiser.named_modules()]
    patterns = {"text_layers": family.text_layers, "text_inputs": family.text_inputs}
    confined = [recipe for recipe in joint_attention.RECIPES.values() if recipe.get("preserve") != ()]
    chosen = [select(layers, modules, recipe["group"], **patterns).confinable().names for recipe in confined]
    assert len(set(chosen)) == len(chosen)
    assert set(chosen[1]) < set(chosen[0]) < set(chosen[2])
    with must_fail("queries and outputs are among the first"):
        assert all(name.endswith(("add_k_proj", "add_v_proj")) for name in chosen[0])


@pytest.mark.parametrize("words", [("cat",), joint_attention.WORDS])
def test_erased_objects_are_not_among_the_others(words: tuple[str, ...]) -> None:
    erased, others = joint_attention.pairs(words)
    assert {word for word, _ in erased} == set(words)
    assert not {word for word, _ in others} & set(words)
