"""`--quantize`: the denoiser is quantised and nothing else, and what is not possible is said before it is loaded."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest
import torch
from emoji_sd import WEIGHTS

from diffusers_esd.cli import main
from diffusers_esd.cli.model import add_model, load_pipeline
from diffusers_esd.quantization import quantization


def options(*values: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_model(parser)
    return parser.parse_args([*values, "--device", "cpu"])


@pytest.mark.parametrize(("kind", "expected"), [("int8", "torchao Int8Tensor"), ("float8", "torchao Float8Tensor")])
def test_the_denoiser_is_quantised(kind: str, expected: str) -> None:
    pipe = load_pipeline(options(str(WEIGHTS), "--quantize", kind, "--quiet"))
    assert quantization(pipe.unet) == expected
    assert quantization(pipe.text_encoder) == quantization(pipe.vae) == ""
    assert pipe.unet.dtype == torch.float32
    assert quantization(load_pipeline(options(str(WEIGHTS), "--quiet")).unet) == ""


def test_a_quantisation_that_is_not_possible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    single = tmp_path / "model.safetensors"
    single.write_bytes(b"x")
    for arguments, message in (
        (["nowhere", "--quantize", "nf4"], "--quantize nf4 needs a GPU (cuda), and the device is cpu; give int8 or"),
        ([str(single), "--quantize", "int8"], "--quantize int8 is for a folder or a repository, and"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
            load_pipeline(options(*arguments))
    (tmp_path / "model_index.json").write_text('{"_class_name": "Cascade", "prior": ["diffusers", "X"]}')
    message = f"--quantize int8 is for the denoiser, and {tmp_path} has none: expected one of unet, transformer in its"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        load_pipeline(options(str(tmp_path), "--quantize", "int8"))
    monkeypatch.setattr("diffusers_esd.cli.quantise.find_spec", lambda name: None)
    for kind, package in (("int8", "torchao"), ("float8", "torchao"), ("nf4", "bitsandbytes")):
        message = f'--quantize {kind} needs {package}: pip install "diffusers-esd[quantised]".'
        with pytest.raises(ImportError, match=f"^{re.escape(message)}$"):
            load_pipeline(options("nowhere", "--quantize", kind))


def test_full_weights_are_not_quantised(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["bake", "nowhere", "no-cat", "-o", "x", "--quantize", "int8"])
    assert "--quantize" in capsys.readouterr().err
