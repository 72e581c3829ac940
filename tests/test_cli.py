"""The command line: every command on a small pipeline in a folder, exit codes, and a quick answer for help."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import local_hub
import pytest
import torch
from controls import must_fail
from diffusers import StableDiffusionPipeline
from made import made, with_provenance
from PIL import Image
from safetensors.torch import save_file
from test_hub import client
from tiny import latents, tiny_pipeline

from diffusers_esd import Erasure, ESDConfig
from diffusers_esd.cli.main import _given, _parser, main
from diffusers_esd.files import HEADER_KEY, stored_dtypes, write_safetensors
from diffusers_esd.run import RunConfig

QUICK = ["--iterations", "2", "--num-inference-steps", "4", "--rank", "2", "--preserve"]


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


def test_erase_takes_the_fields_of_the_configurations(model: str, tmp_path: Path) -> None:
    folder = str(tmp_path / "no-cat")
    assert main(["erase", model, "a cat", "-o", folder, "--device", "cpu", "--seed", "3", "--offload", *QUICK]) == 0
    config = Erasure.from_pretrained(folder).config
    assert config == ESDConfig(iterations=2, num_inference_steps=4, rank=2, preserve=(), seed=3)


def test_a_dry_run_writes_nothing(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "no-cat"
    assert main(["erase", model, "a cat", "-o", str(folder), "--device", "cpu", "--dry-run", *QUICK]) == 0
    assert "no-a-cat: erases 'a cat'\nlayers: 67\n" in capsys.readouterr().out
    assert not folder.exists()


def test_every_field_is_an_option_with_its_documentation(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["erase", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for field in (*fields(ESDConfig), *fields(RunConfig)):
        assert "--" + field.name.replace("_", "-") in text
    assert "Optimiser updates." in text
    values = ["--group", ".*attn1.*", "--eta", "2", "--no-null-space", "--offload", "--size", "64", "--lora-alpha", "3"]
    values += ["--preserve", "a dog", "a bus", "--erase-from", "an animal", "--stop-at-alignment", "-0.5"]
    options = _parser().parse_args(["erase", "model", "a cat", "-o", "out", *values])
    assert ESDConfig(**_given(options, ESDConfig)) == ESDConfig(
        group=".*attn1.*", eta=2.0, null_space=False, size=64, lora_alpha=3.0, preserve=("a dog", "a bus"),
        erase_from="an animal", stop_at_alignment=-0.5,
    )  # fmt: skip
    assert RunConfig(**_given(options, RunConfig)) == RunConfig(offload=True)
    options = _parser().parse_args(["erase", "m", "c", "-o", "o", "--preserve", "vocabulary"])
    assert ESDConfig(**_given(options, ESDConfig)) == ESDConfig()


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
    baked.set_progress_bar_config(disable=True)
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
    assert "rank: 2" in text
    assert "iterations: 8" in text
    assert main(["info", both]) == 0
    merged = capsys.readouterr().out
    assert 'origin: "merged"' in merged
    assert "rank: 4" in merged
    assert "eta: " not in merged, "nothing is claimed of a training"


def test_info_counts_what_is_long_and_reads_former_files(
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
def test_baking_and_importing_keep_the_stored_types(
    mixed: bool, erasures: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
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
        client(hub, tmp_path / "home", f"from diffusers_esd.cli.main import main; assert main({arguments!r}) == 0")
    assert stored_dtypes(tmp_path / "baked") == stored_dtypes(tmp_path / "model")
    assert sizes(tmp_path / "baked") == sizes(tmp_path / "model")
    assert "base_model: someone/model" in (tmp_path / "baked" / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["info", "nowhere"], 1, "error: No erasure at nowhere: give its folder, its file, or "),
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
    code = f"import sys; from diffusers_esd.cli.main import main\ntry:\n    main({arguments})\nfinally:\n    " + (
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
    assert "holds something that is not an erasure" in capsys.readouterr().err, "before the model is looked for"


def test_info_imports_no_torch(erasures: list[str]) -> None:
    code = f"import sys; from diffusers_esd.cli.main import main; main(['info', {erasures[0]!r}])"
    code += "; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")
