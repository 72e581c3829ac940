"""A model is a folder, a repository or a single file, and what is wrong with it is said before it is loaded."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import local_hub
import pytest
import torch
from controls import must_fail
from safetensors.torch import save_file
from tiny import tiny_pipeline

from diffusers_esd.base_model import model_name
from diffusers_esd.cli import main
from diffusers_esd.cli.model import add_model, load_pipeline, load_stored_pipeline
from diffusers_esd.files import stored_dtypes
from diffusers_esd.kohya import sgm_names

PUBLISHED = "stable-diffusion-v1-5/stable-diffusion-v1-5"


def options(*values: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_model(parser)
    return parser.parse_args([*values, "--device", "cpu"])


def weights(pipe: Any) -> dict[str, torch.Tensor]:
    """All weights of a pipeline."""
    parts = {"unet": pipe.unet, "vae": pipe.vae, "text_encoder": pipe.text_encoder}
    return {f"{part}.{key}": value for part, model in parts.items() for key, value in model.state_dict().items()}


# Single files.

# diffusers' names of an autoencoder's layers, and Stability's own.
_AUTOENCODER = (
    (r"encoder\.down_blocks\.(\d)\.resnets\.(\d)", r"encoder.down.\1.block.\2"),
    (r"encoder\.down_blocks\.(\d)\.downsamplers\.0", r"encoder.down.\1.downsample"),
    (r"decoder\.up_blocks\.0\.resnets\.(\d)", r"decoder.up.1.block.\1"),
    (r"decoder\.up_blocks\.1\.resnets\.(\d)", r"decoder.up.0.block.\1"),
    (r"decoder\.up_blocks\.0\.upsamplers\.0", "decoder.up.1.upsample"),
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
    (r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1"),
    (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
    (r"conv_shortcut", "nin_shortcut"),
    (r"conv_norm_out", "norm_out"),
)


def original(pipe: Any) -> dict[str, torch.Tensor]:
    """The weights of a Stable Diffusion 1 under the names of Stability's own code, as a single file has them."""
    unet = pipe.unet.state_dict()
    names = {**sgm_names({key.rpartition(".")[0]: None for key in unet}), "conv_norm_out": "out.0"}
    file: dict[str, torch.Tensor] = {}
    for key, value in unet.items():
        layer, _, kind = key.rpartition(".")
        name = names[layer]
        if ".resnets." in layer:
            name = name.replace(".norm1", ".in_layers.0").replace(".norm2", ".out_layers.0")
        file[f"model.diffusion_model.{name}.{kind}"] = value
    for key, value in pipe.vae.state_dict().items():
        name = key
        for pattern, other in _AUTOENCODER:
            name = re.sub(pattern, other, name)
        is_matrix = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", name)
        file[f"first_stage_model.{name}"] = value[:, :, None, None] if is_matrix else value
    for key, value in pipe.text_encoder.state_dict().items():
        file[f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}"] = value
    return {key: value.clone().contiguous() for key, value in file.items()}


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in a single file, in float16."""
    file = tmp_path_factory.mktemp("single") / "model.safetensors"
    save_file(original(tiny_pipeline().to(torch.float16)), file)
    return file


def test_a_single_file_is_loaded_with_the_settings_of_a_folder(single: Path, model: str) -> None:
    expected = weights(tiny_pipeline().to(torch.float16))
    call = options(str(single), "--model-config", model)
    pipe = load_stored_pipeline(call)
    assert type(pipe) is diffusers.StableDiffusionPipeline
    assert model_name(pipe) == "model.safetensors"
    assert weights(pipe).keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in weights(pipe).items()), "in the type of the file"
    assert {value.dtype for value in weights(load_pipeline(call)).values() if value.is_floating_point()} == {
        torch.float32
    }


@pytest.fixture(scope="module")
def hub(model: str) -> Iterator[local_hub.Hub]:
    """A hub with a model, the same gated, and the settings of the published model, without weights."""
    files = {str(p.relative_to(model)): p.read_bytes() for p in Path(model).rglob("*") if p.is_file()}
    with local_hub.running() as running:
        running.repositories["someone/model"] = running.repositories["someone/gated"] = files
        running.gated.add("someone/gated")
        running.repositories[PUBLISHED] = {k: v for k, v in files.items() if not k.endswith(".safetensors")}
        yield running


def answers(
    hub: local_hub.Hub,
    home: Path,
    calls: list[list[str]],
    token: str | None = local_hub.TOKEN,
    *,
    offline: bool = False,
) -> list[str]:
    """What loading gives for each command line in a new process: the class, or the error."""
    code = f"""
import argparse, os
os.environ["HF_HUB_OFFLINE"] = "{int(offline)}"
from diffusers_esd.base_model import model_name
from diffusers_esd.cli import main
from diffusers_esd.cli.model import add_model, load_stored_pipeline
for call in {calls!r}:
    parser = argparse.ArgumentParser()
    add_model(parser, stored=True)
    try:
        print("answer", type(load_stored_pipeline(parser.parse_args(call))).__name__)
    except Exception as error:
        print("answer", type(error).__name__, error)
"""
    lines = local_hub.client(hub, home, code, token).splitlines()
    return [line.removeprefix("answer ") for line in lines if line.startswith("answer ")]


def test_the_settings_of_a_single_file_come_from_the_published_model(
    hub: local_hub.Hub, single: Path, tmp_path: Path
) -> None:
    assert answers(hub, tmp_path, [[str(single)]]) == ["StableDiffusionPipeline"]
    first, second = answers(hub, tmp_path / "empty", [[str(single)], ["someone/model"]], offline=True)
    assert first == (
        f"FileNotFoundError {single} has weights only, and the settings of its pipeline are those of {PUBLISHED}, "
        f"which cannot be read (There is no folder '{PUBLISHED}', and the Hub cannot be reached.). Give the folder of "
        "a pipeline of the same kind with --model-config."
    )
    assert second.startswith(
        "ConnectionError The Hub cannot be reached, and 'someone/model' is not stored on this comp"
    )


def test_the_answers_of_the_hub(hub: local_hub.Hub, tmp_path: Path) -> None:
    calls = [
        ["someone/model"],
        ["someone/model", "--revision", "v2"],
        ["someone/nothing"],
        ["someone/gated"],
        ["someone/gated", "--token", local_hub.TOKEN],
    ]
    found = answers(hub, tmp_path, calls, token=None)
    assert found == [
        "StableDiffusionPipeline",
        "FileNotFoundError The repository 'someone/model' has no revision 'v2'.",
        "FileNotFoundError There is neither a folder nor a repository 'someone/nothing'; a private one needs a token.",
        "FileNotFoundError 'someone/gated' is gated: ask for access on its page, then log in with `hf auth login`.",
        "StableDiffusionPipeline",
    ]


def test_other_files_are_not_models(single: Path, model: str, erasures: list[str], tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(b"x")
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    erasure = f"{erasures[0]}/pytorch_lora_weights.safetensors"
    for arguments, kind, message in (
        (["nowhere"], FileNotFoundError, "No model at nowhere: give a folder, a .safetensors file, or 'user/name' of"),
        ([str(tmp_path)], FileNotFoundError, f"No model at {tmp_path}: the folder does not contain model_index.json."),
        ([erasures[0]], FileNotFoundError, f"No model at {erasures[0]}: the folder does not contain model_index.json."),
        ([str(tmp_path / "model.ckpt")], ValueError, "is not a safetensors file; only those are read, because others"),
        ([str(tmp_path / "model.safetensors")], ValueError, "is damaged or not a safetensors file"),
        ([erasure], ValueError, "is an adapter, not a model: it contains 'unet."),
        ([model, "--revision", "v1"], ValueError, "--revision is for a model on the Hub, and"),
        ([model, "--model-config", model], ValueError, "--model-config is for a model in a single file, and"),
        ([str(single), "--variant", "fp16"], ValueError, "--variant is for a folder or a repository, and"),
        ([model, "--variant", "fp16"], (ValueError, OSError), "variant"),
        ([erasure, "--model-config", model], ValueError, "does not fit the settings of"),
    ):
        with pytest.raises(kind, match=re.escape(message)):  # type: ignore[arg-type]
            load_pipeline(options(*arguments))


# Devices, variants, bars.


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is one")
@pytest.mark.parametrize("load", [load_pipeline, load_stored_pipeline])
def test_a_device_that_is_not_there(load: Any) -> None:
    for device in ("cuda", "cuda:1"):
        call = options("nowhere")
        call.device = device
        message = f"--device {device}: PyTorch does not find this device; leave out --device, or give cpu."
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            load(call)
    call.device = "gpu"
    with pytest.raises(RuntimeError, match="gpu"):
        load(call)


def test_a_variant_keeps_its_types(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    pipe.save_pretrained(tmp_path)
    pipe.to(torch.float16).save_pretrained(tmp_path, variant="fp16")
    (tmp_path / "vae" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    assert set(stored_dtypes(tmp_path).values()) == {torch.float32}
    loaded = load_stored_pipeline(options(str(tmp_path), "--variant", "fp16"))
    assert loaded.unet.dtype == loaded.text_encoder.dtype == torch.float16
    assert loaded.vae.dtype == torch.float32, "it does not have the variant"
    with must_fail("without it the other files are read"):
        assert load_stored_pipeline(options(str(tmp_path))).unet.dtype == torch.float16


def test_quiet_shows_no_bars(
    model: str, erasures: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def bars(name: str, *arguments: str) -> int:
        capfd.readouterr()
        assert main(["bake", model, erasures[0], "-o", str(tmp_path / name), *arguments]) == 0
        printed = capfd.readouterr()
        assert printed.out == f"{tmp_path / name}\n"
        return printed.err.count("100%")

    assert bars("loud") > 0
    assert bars("quiet", "--quiet") == 0
    assert bars("again") > 0, "they are back afterwards"
    for quiet in ([], ["-q"]):
        pipe = load_pipeline(options(model, *quiet))
        capfd.readouterr()
        pipe("a cat", num_inference_steps=1)
        assert ("100%" in capfd.readouterr().err) is (not quiet)
