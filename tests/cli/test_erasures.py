"""Every command that uses erasures, on a small pipeline in a folder."""

from __future__ import annotations

import json
from pathlib import Path

import local_hub
import pytest
import torch
from controls import must_fail
from diffusers import StableDiffusionPipeline
from made import made, with_provenance
from PIL import Image
from safetensors.torch import save_file
from tiny import latents, tiny_pipeline

from diffusers_esd import Erasure, Recipe, bake, stack
from diffusers_esd.cli import main
from diffusers_esd.files import HEADER_KEY, stored_dtypes, write_safetensors


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def erasures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root, pipe = tmp_path_factory.mktemp("erasures"), tiny_pipeline()
    both = made(pipe, "a cat", rank=2), made(pipe, "a dog", rank=2, seed=1)
    return [str(erasure.save_pretrained(root / erasure.name)) for erasure in both]


@pytest.fixture(scope="module")
def recipe(erasures: list[str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of a recipe, made by the command."""
    file = str(tmp_path_factory.mktemp("recipe") / "stack.json")
    assert main(["recipe", f"{erasures[0]}=0.8", erasures[1], "-o", file]) == 0
    return file


@pytest.mark.parametrize("command", ["preview", "stack"])
def test_images(command: str, model: str, erasures: list[str], tmp_path: Path) -> None:
    chosen = erasures[:1] if command == "preview" else [erasures[0], f"{erasures[1]}=0.5"]
    common = ["--prompt", "a cat", "--prompt", "a dog", "--seeds", "0", "1", "--steps", "2", "--device", "cpu"]
    assert main([command, model, *chosen, "-o", str(tmp_path / "grid.png"), *common]) == 0
    image = Image.open(tmp_path / "grid.png")
    columns = 4 if command == "preview" else 2
    assert columns * 256 < image.size[0] < (columns + 1) * 256
    assert 4 * 256 < image.size[1] < 5 * 256


def test_the_same_images_of_a_recipe(model: str, erasures: list[str], recipe: str, tmp_path: Path) -> None:
    def drawn(*arguments: str) -> bytes:
        file = tmp_path / "grid.png"
        common = ["--prompt", "a cat", "--steps", "1", "--device", "cpu", "-o", str(file)]
        assert main([*arguments[:1], model, *arguments[1:], *common]) == 0
        return Image.open(file).tobytes()

    expected = drawn("stack", f"{erasures[0]}=0.4", f"{erasures[1]}=0.5")
    assert drawn("stack", f"{recipe}=0.5") == expected
    assert drawn("stack", str(Path(recipe).parent) + "=.5") == expected
    assert drawn("preview", f"{recipe}=0.5", "--scales", "0", "1") == expected
    with must_fail("the scale counts"):
        assert drawn("stack", recipe) == expected


def test_merge_bake_export_and_import(
    model: str, erasures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both, kohya = str(tmp_path / "both"), str(tmp_path / "both.kohya.safetensors")
    assert main(["merge", erasures[0], f"{erasures[1]}=0.5", "-o", both, "--name", "both"]) == 0
    assert Erasure.from_pretrained(both).provenance.parts == (("no-a-cat", 1.0), ("no-a-dog", 0.5))
    assert main(["bake", model, f"{both}=1", "-o", str(tmp_path / "baked"), "--device", "cpu"]) == 0
    pipe = StableDiffusionPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    Erasure.from_pretrained(both).apply(pipe)
    baked = StableDiffusionPipeline.from_pretrained(tmp_path / "baked")
    baked.set_progress_bar_config(disable=True)
    torch.testing.assert_close(latents(baked), latents(pipe), rtol=1e-3, atol=1e-3)
    assert main(["export", both, "-o", kohya]) == 0
    again = str(tmp_path / "again")
    assert main(["import", kohya, model, "--concept", "a cat", "-o", again, "--device", "cpu"]) == 0
    assert Erasure.from_pretrained(again).weights.keys() == Erasure.from_pretrained(both).weights.keys()
    assert main(["merge", both, "-o", str(tmp_path / "low"), "--rank", "1"]) == 0
    assert "relative error of rank 1: " in capsys.readouterr().out


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


def test_calibrate_writes_a_recipe_that_stacks(
    model: str, erasures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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


def test_push_publishes_an_erasure_or_a_recipe(erasures: list[str], recipe: str, tmp_path: Path) -> None:
    start = "from diffusers_esd.cli import main; "
    with local_hub.running() as hub:
        code = f"{start}print([main(['push', {erasures[0]!r}, 'me/no-cat']), main(['push', {recipe!r}, 'me/both'])])"
        assert local_hub.client(hub, tmp_path / "home", code).endswith("[0, 1]\n"), "local paths are not on the Hub"
        assert "me/both" not in hub.repositories
        mine = str(tmp_path / "mine.json")
        code = f"{start}print([main(['recipe', 'me/no-cat=0.8', '-o', {mine!r}]), main(['push', {mine!r}, 'me/both'])])"
        assert local_hub.client(hub, tmp_path / "home", code).endswith("[0, 0]\n")
        printed = local_hub.client(hub, tmp_path / "home", f"{start}main(['info', 'me/both'])")
    assert printed == f"me/no-cat@{1:040x}=0.8\n"
    assert "pytorch_lora_weights.safetensors" in hub.repositories["me/no-cat"]
    assert set(hub.repositories["me/both"]) == {"README.md", "stack.json"}


def test_info_shows_what_is_true_of_an_erasure(
    erasures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", erasures[0]]) == 0
    text = capsys.readouterr().out
    for line in ('name: "no-a-cat"', 'concepts: ["a cat"]', "rank: 2", "iterations: 8", "alignment: -0.5"):
        assert f"{line}\n" in text
    assert text.splitlines()[-1].startswith("alignment, from first to last: ")
    assert text.splitlines()[-1].endswith("▁")
    assert main(["merge", *erasures, "-o", str(tmp_path / "both")]) == 0
    capsys.readouterr()
    assert main(["info", str(tmp_path / "both")]) == 0
    merged = capsys.readouterr().out
    assert 'origin: "merged"' in merged
    assert "rank: 4" in merged
    assert "eta: " not in merged, "nothing is claimed of a training"
    assert "from first to last" not in merged


def test_info_counts_long_lists_and_reads_former_files(
    erasures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    erasure = Erasure.from_pretrained(erasures[0])
    long = with_provenance(
        erasure, left_out={"too faint": ("conv_in", "conv_out")}, leaks={"conv_in": 0.01, "conv_out": 0.02}
    )
    assert main(["info", str(long.save_pretrained(tmp_path / "long"))]) == 0
    text = capsys.readouterr().out
    assert 'left_out, layers by reason: {"too faint": 2}' in text
    assert "leaks, the largest: 0.02" in text
    values = erasure.to_dict()
    del values["provenance"]["origin"]
    values["config"] |= {"offload": True}
    weights = dict(erasure.weights)
    write_safetensors(tmp_path / "former.safetensors", weights, {HEADER_KEY: json.dumps(values)})
    assert main(["info", str(tmp_path / "former.safetensors")]) == 0
    assert 'origin: "trained"' in capsys.readouterr().out
    values["provenance"]["history"] = [[1.0, 1e308], [1.0, -1e308]]
    write_safetensors(tmp_path / "damaged.safetensors", weights, {HEADER_KEY: json.dumps(values)})
    assert main(["info", str(tmp_path / "damaged.safetensors")]) == 1
    assert "damaged.safetensors is damaged or of a newer version" in capsys.readouterr().err
    write_safetensors(tmp_path / "foreign.safetensors", weights, {"format": "pt"})
    assert main(["info", str(tmp_path / "foreign.safetensors")]) == 1
    assert "foreign.safetensors is not an erasure: 'diffusers_esd' is missing" in capsys.readouterr().err


def sizes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*.safetensors")}


@pytest.mark.parametrize("mixed", [False, True])
def test_baking_and_importing_keep_the_stored_types(mixed: bool, erasures: list[str], tmp_path: Path) -> None:
    pipe = tiny_pipeline().to(torch.float16)
    if mixed:
        pipe.vae.to(torch.float32)
        pipe.text_encoder.to(torch.bfloat16)
    pipe.save_pretrained(tmp_path / "model")
    expected = stored_dtypes(tmp_path / "model")
    assert len(set(expected.values())) == (3 if mixed else 1)
    assert main(["bake", str(tmp_path / "model"), erasures[0], "-o", str(tmp_path / "baked")]) == 0
    assert stored_dtypes(tmp_path / "baked") == expected
    assert sizes(tmp_path / "baked") == sizes(tmp_path / "model")
    StableDiffusionPipeline.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "plain")
    with must_fail("diffusers by itself loads in float32"):
        assert stored_dtypes(tmp_path / "plain") == expected
    assert main(["bake", str(tmp_path / "model"), erasures[0], "-o", str(tmp_path / "b"), "--dtype", "float32"]) == 0
    assert set(stored_dtypes(tmp_path / "b").values()) == {torch.float32}

    changed = {key: value.clone() for key, value in pipe.unet.state_dict().items()}
    changed["conv_in.weight"] += 0.5
    save_file(changed, tmp_path / "esd.safetensors")
    arguments = ["--concept", "a cat", "-o", str(tmp_path / "imported")]
    assert main(["import", str(tmp_path / "esd.safetensors"), str(tmp_path / "model"), *arguments]) == 0
    assert list(Erasure.from_pretrained(tmp_path / "imported").layers()) == ["conv_in"]


def test_baking_a_model_of_the_hub_keeps_its_types(erasures: list[str], tmp_path: Path) -> None:
    tiny_pipeline().to(torch.float16).save_pretrained(tmp_path / "model")
    files = {
        str(p.relative_to(tmp_path / "model")): p.read_bytes() for p in (tmp_path / "model").rglob("*") if p.is_file()
    }
    with local_hub.running() as hub:
        hub.repositories["someone/model"] = files
        arguments = ["bake", "someone/model", erasures[0], "-o", str(tmp_path / "baked")]
        code = f"from diffusers_esd.cli import main; assert main({arguments!r}) == 0"
        local_hub.client(hub, tmp_path / "home", code)
    assert stored_dtypes(tmp_path / "baked") == stored_dtypes(tmp_path / "model")
    assert sizes(tmp_path / "baked") == sizes(tmp_path / "model")
    assert "base_model: someone/model" in (tmp_path / "baked" / "README.md").read_text()


def test_paths_with_an_equals_sign_and_a_source_given_twice(erasures: list[str], tmp_path: Path) -> None:
    odd = tmp_path / "eta=high" / "no-cat"
    Erasure.from_pretrained(erasures[0]).save_pretrained(odd)
    assert main(["merge", str(odd), f"{odd}=0.5", "-o", str(tmp_path / "merged")]) == 0
    assert [scale for _, scale in Erasure.from_pretrained(tmp_path / "merged").provenance.parts] == [1.0, 0.5]
