"""A training loads the parts of a model that it needs, and no others."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from controls import must_fail
from tiny import tiny_flux, tiny_pipeline, tiny_xl

from diffusers_esd import Erasure
from diffusers_esd.cli import main
from diffusers_esd.cli.model import add_model, load_pipeline
from diffusers_esd.cli.parts import Parts
from diffusers_esd.families import family_for

QUICK = ["--iterations", "4", "--num-inference-steps", "4", "--rank", "2", "--device", "cpu", "--size", "16"]
QUICK += ["--preserve"]
BUILDERS: dict[str, Callable[[], Any]] = {"sd1": tiny_pipeline, "sdxl": tiny_xl, "flux": tiny_flux}


def loaded(folder: Path, parts: Parts) -> Any:
    parser = argparse.ArgumentParser()
    add_model(parser)
    return load_pipeline(parser.parse_args([str(folder), "--device", "cpu"]), parts)


def parameters(pipe: Any) -> dict[str, int]:
    """The number of parameters in memory, by part."""
    models = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    return {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}


def without(folder: Path, *parts: str) -> None:
    """Remove the weights of some parts; their settings stay."""
    for part in parts:
        files = list((folder / part).glob("*.safetensors"))
        assert files
        for file in files:
            file.unlink()


@pytest.mark.parametrize("kind", BUILDERS)
def test_only_what_is_needed_is_loaded(kind: str, tmp_path: Path) -> None:
    pipe = BUILDERS[kind]()
    pipe.save_pretrained(tmp_path)
    every = parameters(pipe)
    encoders = {name for name in every if name.startswith("text_encoder")}
    whole = loaded(tmp_path, Parts())
    assert parameters(whole) == every
    without(tmp_path, "vae")
    trained = loaded(tmp_path, Parts(draws=False))
    assert parameters(trained) == {name: n for name, n in every.items() if name != "vae"}
    ours, theirs = family_for(trained), family_for(whole)
    assert (ours.scale_factor, ours.latent_shape(None)) == (theirs.scale_factor, theirs.latent_shape(None))
    with pytest.raises(OSError, match=r"safetensors|pytorch_model"):
        loaded(tmp_path, Parts())
    without(tmp_path, *encoders)
    resumed = loaded(tmp_path, Parts(draws=False, encodes=False, denoiser_waits=True))
    assert parameters(resumed) == {name: n for name, n in every.items() if name not in {"vae", *encoders}}


def test_the_scale_of_latents_is_that_of_the_autoencoder(tmp_path: Path) -> None:
    """A pipeline without autoencoder has a scale of its own, which may be another."""
    pipe = tiny_pipeline()
    pipe.save_pretrained(tmp_path)
    assert loaded(tmp_path, Parts(draws=False)).vae_scale_factor == pipe.vae_scale_factor
    with must_fail("without its settings"):
        assert type(pipe)(**{**pipe.components, "vae": None}).vae_scale_factor == pipe.vae_scale_factor


def test_an_inpainting_model_is_refused_without_its_autoencoder(tmp_path: Path) -> None:
    from tiny import tiny_unet

    tiny_pipeline(unet=tiny_unet(in_channels=9)).save_pretrained(tmp_path)
    without(tmp_path, "vae")
    with pytest.raises(ValueError, match="The denoiser takes 9 channels and the autoencoder makes 4: an inpainting"):
        loaded(tmp_path, Parts(draws=False))


def test_erase_reads_no_autoencoder_and_a_resumed_one_no_text_encoder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, runs = tmp_path / "model", tmp_path / "runs"
    tiny_pipeline().save_pretrained(model)

    def erase(name: str, *others: str) -> int:
        return main(["erase", str(model), "a cat", "-o", str(tmp_path / name), *QUICK, *others])

    assert erase("whole", "--check") == 0
    without(model, "vae")
    saved = ["--output-dir", str(runs), "--checkpoint-every", "2", "--keep-checkpoints", "9"]
    assert erase("plain", *saved) == 0
    for option in ("--offload", "--free-text-encoders"):
        assert erase(f"with{option}", option) == 0
    shutil.rmtree(runs / "no-a-cat" / "checkpoint-4")
    without(model, "text_encoder")
    assert erase("resumed", *saved, "--resume", "latest", "--offload") == 0
    names = ("whole", "plain", "with--offload", "with--free-text-encoders", "resumed")
    first, *rest = (dict(Erasure.from_pretrained(tmp_path / name).weights) for name in names)
    assert all(torch.equal(value, other[key]) for other in rest for key, value in first.items())
    capsys.readouterr()
    with must_fail("a new training encodes prompts"):
        assert erase("new") == 0
    assert erase("drawn", "--check") == 1


def test_what_cannot_work_is_refused_before_the_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: str) -> str:
        call = ["erase", "someone/model", *arguments, "-o", str(tmp_path / "out"), "--free-text-encoders"]
        assert main(call) == 1
        return capsys.readouterr().err

    text = "error: --check draws with the text encoders, which --free-text-encoders drops."
    assert text in refused("a cat", "--check")
    assert "`sample_every`=2 draws with the text encoders" in refused(
        "a cat", "--sample-every", "2", "--output-dir", str(tmp_path / "runs")
    )
    (tmp_path / "concepts.txt").write_text("a cat\na dog\n")
    assert "which are needed again for each of 2 concepts" in refused("--concepts", str(tmp_path / "concepts.txt"))
