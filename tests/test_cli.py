"""The command line: every command on a small pipeline in a folder, exit codes, and a quick answer for help."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from tiny import latents, tiny_pipeline

from diffusers_esd import Erasure, ESDConfig
from diffusers_esd.cli import _config, _parser, main

QUICK = ["--iterations", "2", "--num-inference-steps", "4", "--rank", "2", "--preserve"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def erasures(model: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("erasures")
    folders = [str(root / name) for name in ("no-cat", "no-dog")]
    for folder, concept in zip(folders, ("a cat", "a dog"), strict=True):
        assert main(["erase", model, concept, "-o", folder, "--device", "cpu", "--seed", "3", *QUICK]) == 0
    return folders


def test_erase_takes_the_fields_of_the_configuration(erasures: list[str]) -> None:
    config = Erasure.from_pretrained(erasures[0]).config
    assert config == ESDConfig(iterations=2, num_inference_steps=4, rank=2, preserve=(), seed=3)


def test_every_field_is_an_option_with_its_documentation(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["erase", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for field in fields(ESDConfig):
        assert "--" + field.name.replace("_", "-") in text
    assert "Optimiser updates." in text
    values = ["--group", "esd-x", "--eta", "2", "--no-null-space", "--offload", "--size", "64", "--lora-alpha", "3"]
    values += ["--preserve", "a dog", "a bus", "--erase-from", "an animal", "--stop-at-alignment", "-0.5"]
    options = _parser().parse_args(["erase", "model", "a cat", "-o", "out", *values])
    assert _config(options) == ESDConfig(
        group="esd-x", eta=2.0, null_space=False, offload=True, size=64, lora_alpha=3.0, preserve=("a dog", "a bus"),
        erase_from="an animal", stop_at_alignment=-0.5,
    )  # fmt: skip
    assert _config(_parser().parse_args(["erase", "m", "c", "-o", "o", "--preserve", "vocabulary"])) == ESDConfig()


@pytest.mark.parametrize("command", ["preview", "stack"])
def test_pictures(command: str, model: str, erasures: list[str], tmp_path: Path) -> None:
    chosen = erasures[:1] if command == "preview" else [erasures[0], f"{erasures[1]}=0.5"]
    common = ["--prompt", "a cat", "--prompt", "a dog", "--seeds", "0", "1", "--steps", "2", "--device", "cpu"]
    assert main([command, model, *chosen, "-o", str(tmp_path / "grid.png"), *common]) == 0
    image = Image.open(tmp_path / "grid.png")
    columns = 4 if command == "preview" else 2
    assert image.size[0] > columns * 256
    assert image.size[1] > 4 * 256


def test_merge_bake_export_import_and_info(
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
    torch.testing.assert_close(latents(baked), latents(pipe), rtol=1e-3, atol=1e-3)
    assert main(["export", both, "-o", kohya]) == 0
    again = str(tmp_path / "again")
    assert main(["import", kohya, model, "--concept", "a cat", "-o", again, "--device", "cpu"]) == 0
    assert Erasure.from_pretrained(again).weights.keys() == Erasure.from_pretrained(both).weights.keys()
    assert main(["merge", both, "-o", str(tmp_path / "low"), "--rank", "1"]) == 0
    assert "relative error of rank 1: " in capsys.readouterr().out
    assert main(["info", erasures[0]]) == 0
    text = capsys.readouterr().out
    assert 'name: "no-a-cat"' in text
    assert 'concepts: ["a cat"]' in text
    assert "alignment, from first to last: " in text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["info", "nowhere"], 1, "error: "),
        (["merge", "nowhere", "-o", "x"], 1, "error: No erasure at nowhere"),
        (["erase", "nowhere", "a cat", "-o", "x", "--eta", "-1"], 1, "error: eta=-1.0 is out of range"),
        (["export", "nowhere"], 2, "-o/--output"),
        (["nothing"], 2, "invalid choice"),
    ],
)
def test_errors_have_a_message_and_a_code(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        found = main(arguments)
    except SystemExit as error:
        found = error.code  # type: ignore[assignment]
    assert found == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["erase", "--help"]])
def test_help_is_quick_and_imports_no_torch(arguments: list[str]) -> None:
    code = f"import sys; from diffusers_esd.cli import main\ntry:\n    main({arguments})\nfinally:\n    " + (
        "print([m for m in ('torch', 'diffusers', 'safetensors', 'huggingface_hub') if m in sys.modules])"
    )
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - started)
    assert done.stdout.strip().endswith("[]")
    assert min(seconds) < 0.5


def test_paths_with_an_equals_sign_and_folders_in_the_way(
    erasures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / "eta=high" / "no-cat"
    Erasure.from_pretrained(erasures[0]).save_pretrained(odd)
    assert main(["merge", str(odd), f"{odd}=0.5", "-o", str(tmp_path / "merged")]) == 0
    assert [weight for _, weight in Erasure.from_pretrained(tmp_path / "merged").provenance.parts] == [1.0, 0.5]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    assert main(["erase", "nowhere", "a cat", "-o", str(tmp_path / "full")]) == 1
    assert "holds something that is no erasure" in capsys.readouterr().err, "before the model is looked for"


def test_info_imports_no_torch(erasures: list[str]) -> None:
    code = f"import sys; from diffusers_esd.cli import main; main(['info', {erasures[0]!r}])"
    code += "; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")
