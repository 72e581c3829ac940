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
from made import made
from safetensors.torch import save_file
from single_file import original, separable_xl
from tiny import tiny_pipeline

from diffusers_esd import ESDTrainer, stack
from diffusers_esd.base_model import fingerprint, model_name, same_weights
from diffusers_esd.cli import main
from diffusers_esd.cli.model import add_model, load_pipeline, load_stored_pipeline
from diffusers_esd.families import family_for
from diffusers_esd.files import stored_dtypes

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
def xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a Stable Diffusion XL."""
    folder = tmp_path_factory.mktemp("xl")
    separable_xl().save_pretrained(folder)
    return folder


def fine_tune(folder: Path, *marks: str) -> Path:
    """A fine-tune of it in a single file, with marks as NoobAI's has them."""
    pipe, generator = separable_xl(), torch.Generator().manual_seed(0)
    for weight in pipe.unet.parameters():
        weight.data *= 1 + 0.05 * torch.randn(weight.shape, generator=generator)
    save_file({**original(pipe), **{mark: torch.empty(0) for mark in marks}}, folder / "fine-tune.safetensors")
    return folder / "fine-tune.safetensors"


def test_a_fine_tune_is_loaded_as_the_model_it_was_made_of(xl: Path, tmp_path: Path) -> None:
    file = fine_tune(tmp_path)
    pipe = load_pipeline(options(str(file), "--model-config", str(xl)))
    assert type(pipe) is diffusers.StableDiffusionXLPipeline
    assert type(family_for(pipe)).__name__ == "StableDiffusionXL"
    assert pipe.scheduler.config.prediction_type == "epsilon"
    base = separable_xl()
    for part in ("vae", "text_encoder", "text_encoder_2"):
        expected = getattr(base, part).state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in getattr(pipe, part).state_dict().items())
    with must_fail("the denoiser is another"):
        assert same_weights(fingerprint(pipe.unet), fingerprint(base.unet))
    erasure = made(base, "a cat")
    message = (
        "no-a-cat was trained on StableDiffusionXLPipeline, and this pipeline is fine-tune.safetensors. Its effect "
    )
    with pytest.warns(
        UserWarning, match=f"^{re.escape(message)}here is not measured; compare the images, or call the "
    ):
        assert stack(pipe, erasure) == {"no-a-cat": 1.0}


def test_marks_in_a_file_say_that_a_fine_tune_predicts_v(xl: Path, tmp_path: Path) -> None:
    def settings(*marks: str, config: Path = xl) -> tuple[Any, ...]:
        scheduler = load_pipeline(options(str(fine_tune(tmp_path, *marks)), "--model-config", str(config))).scheduler
        names = ("prediction_type", "rescale_betas_zero_snr", "timestep_spacing", "beta_schedule")
        return type(scheduler).__name__, *(scheduler.config[name] for name in names)

    kind = "EulerDiscreteScheduler"
    assert settings() == (kind, "epsilon", False, "leading", "scaled_linear")
    assert settings("v_pred") == (kind, "v_prediction", False, "leading", "scaled_linear")
    assert settings("v_pred", "ztsnr") == (kind, "v_prediction", True, "trailing", "scaled_linear")
    assert settings("ztsnr") == settings(), "it says something about a model that predicts v"
    own = separable_xl()
    own.scheduler = diffusers.DDIMScheduler.from_config(own.scheduler.config, prediction_type="v_prediction")
    own.save_pretrained(tmp_path / "own")
    assert settings("v_pred", "ztsnr", config=tmp_path / "own") == (
        "DDIMScheduler", "v_prediction", False, "leading", "scaled_linear",
    ), "a scheduler that predicts v is kept"  # fmt: skip


def test_a_fine_tune_that_predicts_v_is_trained(xl: Path, tmp_path: Path) -> None:
    call = options(str(fine_tune(tmp_path, "v_pred", "ztsnr")), "--model-config", str(xl))
    trainer = ESDTrainer(load_pipeline(call), group="esd-x", iterations=2, num_inference_steps=3, preserve=())
    schedule = trainer.family.schedule(3, (1, 4, 8, 8), 1.0)
    assert (schedule.prediction_type, schedule.alphas[0].item()) == ("v_prediction", 0.0), "it starts from noise alone"
    assert trainer.erase("a cat").provenance.complete


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
    """What loading gives for each command line in another process: the class, or the error."""
    code = f"""
import argparse, os
os.environ["HF_HUB_OFFLINE"] = "{int(offline)}"  # read when the client is imported
from diffusers_esd import ESDTrainer, stack
from diffusers_esd.base_model import fingerprint, model_name, same_weights
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
    client = local_hub.new_client if offline else local_hub.client
    lines = client(hub, home, code, token).splitlines()
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
