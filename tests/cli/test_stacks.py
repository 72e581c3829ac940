"""The commands that make one thing of several erasures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from controls import must_fail
from diffusers import StableDiffusionPipeline
from made import made
from tiny import tiny_pipeline

from diffusers_esd import Erasure, Recipe, bake, merge, stack
from diffusers_esd.cli import main


def test_merge_bake_and_export_take_recipes(model: str, erasures: list[str], recipe: str, tmp_path: Path) -> None:
    assert main(["merge", recipe, "-o", str(tmp_path / "merged")]) == 0
    assert Erasure.from_pretrained(tmp_path / "merged").provenance.parts == (("no-a-cat", 0.8), ("no-a-dog", 1.0))
    assert main(["bake", model, recipe, "-o", str(tmp_path / "baked"), "--device", "cpu"]) == 0
    expected = bake(StableDiffusionPipeline.from_pretrained(model), {erasures[0]: 0.8, erasures[1]: 1.0}).unet
    weights = StableDiffusionPipeline.from_pretrained(tmp_path / "baked").unet.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in expected.state_dict().items())
    files = [tmp_path / name for name in ("recipe.safetensors", "merged.safetensors", "other.safetensors")]
    sources = [[recipe], [str(tmp_path / "merged")], [erasures[0], erasures[1]]]
    for file, source in zip(files, sources, strict=True):
        assert main(["export", *source, "-o", str(file)]) == 0
    assert files[0].read_bytes() == files[1].read_bytes()
    with must_fail("the scale counts"):
        assert files[2].read_bytes() == files[1].read_bytes()


def test_the_command_recipe_writes_what_stack_reads(
    erasures: list[str], recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stack(tiny_pipeline(), recipe) == {"no-a-cat": 0.8, "no-a-dog": 1.0}
    assert main(["recipe", f"{erasures[0]}=0.8", "me/no-dog@v1", "-o", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'stack.json'}\n"
    second = Recipe.from_pretrained(tmp_path).entries[1]
    assert (second.source, second.revision, second.scale) == ("me/no-dog", "v1", 1.0)
    assert main(["info", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{erasures[0]}=0.8\nme/no-dog@v1=1.0\n", "the arguments that make it again"
    assert main(["recipe", erasures[0], f"{erasures[0]}=0.5", "-o", str(tmp_path / "twice")]) == 1
    assert "error: An erasure is given twice" in capsys.readouterr().err
    assert main(["recipe", recipe, "-o", str(tmp_path / "nested")]) == 1
    assert "error: A recipe cannot contain another recipe" in capsys.readouterr().err
    assert not (tmp_path / "twice").exists()
    assert not (tmp_path / "nested").exists()


def lowering(pipe: StableDiffusionPipeline, seed: int, name: str) -> Erasure:
    """An erasure that lowers the alignment of its concept."""
    both = [merge({made(pipe, seed=seed): scale}, name=name) for scale in (1.0, -1.0)]
    return min(both, key=lambda e: e.check(pipe, prompts=["a cat"], num_inference_steps=6).named["a cat"])


def test_calibrate_writes_a_recipe_that_stacks(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Random weights may raise the alignment: these lower it.
    pipe = tiny_pipeline()
    erasures = [str(lowering(pipe, seed, f"no-{seed}").save_pretrained(tmp_path / f"no-{seed}")) for seed in (0, 1)]
    file = tmp_path / "stack.json"
    assert main(["calibrate", model, f"{erasures[0]}=0.8", erasures[1], "-o", str(file), "--device", "cpu"]) == 0
    scales = {entry.source: entry.scale for entry in Recipe.from_pretrained(file).entries}
    assert scales.keys() == set(erasures)
    assert 0 <= scales[erasures[0]] <= 0.8
    assert f"{erasures[1]}={scales[erasures[1]]:.3f}\n" in capsys.readouterr().out
    (tmp_path / "other.json").write_text("{}")
    assert main(["calibrate", "no-model", *erasures, "-o", str(tmp_path / "other.json")]) == 1
    assert "exists and is not a recipe" in capsys.readouterr().err, "before the model is loaded"


def test_refine_writes_an_erasure(
    model: str, erasures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--iterations", "20", "--rank", "2", "--name", "both", "--device", "cpu"]
    assert main(["refine", model, *erasures, "-o", str(tmp_path / "both"), *options]) == 0
    refined = Erasure.from_pretrained(tmp_path / "both")
    assert (refined.name, refined.rank, refined.provenance.origin) == ("both", 2, "refined")
    assert "relative error of rank 2" in capsys.readouterr().out
    assert main(["refine", "no-model", *erasures, "-o", model]) == 1
    assert "no-model" not in capsys.readouterr().err, "before the model is loaded"
