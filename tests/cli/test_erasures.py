"""Every command that uses erasures, on a small pipeline in a folder."""

from __future__ import annotations

from pathlib import Path

import local_hub
import pytest
import torch
from controls import must_fail
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import save_file
from tiny import latents, tiny_pipeline

from diffusers_esd import Erasure
from diffusers_esd.cli import main
from diffusers_esd.files import stored_dtypes


@pytest.mark.parametrize("multipliers", [[], ["--multipliers", "0", "1"]])
def test_images(multipliers: list[str], model: str, erasures: list[str], tmp_path: Path) -> None:
    common = ["--prompt", "a cat", "--prompt", "a dog", "--seeds", "0", "1", "--steps", "2", "--device", "cpu"]
    call = ["preview", model, erasures[0], f"{erasures[1]}=0.5", "-o", str(tmp_path / "grid.png"), *common]
    assert main([*call, *multipliers]) == 0
    image = Image.open(tmp_path / "grid.png")
    columns = 2 if multipliers else 4
    assert columns * 256 < image.size[0] < (columns + 1) * 256
    assert 4 * 256 < image.size[1] < 5 * 256


def test_the_same_images_of_a_recipe(model: str, erasures: list[str], recipe: str, tmp_path: Path) -> None:
    def drawn(*chosen: str) -> bytes:
        file = tmp_path / "grid.png"
        common = ["--prompt", "a cat", "--steps", "1", "--device", "cpu", "-o", str(file), "--multipliers", "0", "1"]
        assert main(["preview", model, *chosen, *common]) == 0
        return Image.open(file).tobytes()

    expected = drawn(f"{erasures[0]}=0.4", f"{erasures[1]}=0.5")
    assert drawn(f"{recipe}=0.5") == expected
    assert drawn(str(Path(recipe).parent) + "=.5") == expected
    with must_fail("the scale counts"):
        assert drawn(recipe) == expected


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
    assert main(["export", both, "-o", str(tmp_path / "a1111.safetensors"), "--for", "a1111"]) == 0
    assert (tmp_path / "a1111.safetensors").read_bytes() == Path(kohya).read_bytes()
    again = str(tmp_path / "again")
    assert main(["import", kohya, model, "--concept", "a cat", "-o", again, "--device", "cpu"]) == 0
    assert Erasure.from_pretrained(again).weights.keys() == Erasure.from_pretrained(both).weights.keys()
    assert main(["merge", both, "-o", str(tmp_path / "low"), "--rank", "1"]) == 0
    assert "relative error of rank 1: " in capsys.readouterr().out


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


def test_what_needs_no_import_or_would_be_replaced_is_refused(
    erasures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = f"{erasures[0]}/pytorch_lora_weights.safetensors"
    for call, message in (
        (["import", file, "nowhere", "--concept", "a cat", "-o", str(tmp_path / "x")], "needs no import: use it"),
        (["export", "nothing", "-o", file], "is the file of an erasure, which the export would replace"),
    ):
        assert main(call) == 1
        assert message in capsys.readouterr().err


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
