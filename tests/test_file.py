"""The file: what was trained is, bit for bit, what plain diffusers loads; and it is never half-written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import latents, style_adapter, tiny_pipeline, tiny_unet

from diffusers_esd import Erasure, ESDTrainer
from diffusers_esd.erasure import JSON_NAME
from diffusers_esd.files import HEADER_KEY, WEIGHTS_NAME

QUICK: dict[str, Any] = {
    "num_inference_steps": 5,
    "iterations": 8,
    "rank": 4,
    "lora_alpha": 6,
    "learning_rate": 1e-2,
    "preserve": (),
}


@pytest.fixture(scope="module")
def erasure() -> Erasure:
    return ESDTrainer(tiny_pipeline(), **QUICK).erase("a cat")


@pytest.mark.parametrize("group", ["esd-x", "esd-x-strict", "esd-u", "full"])
def test_plain_diffusers_loads_what_was_trained(group: str, tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    base = latents(pipe)
    ESDTrainer(pipe, group=group, **QUICK).erase("a cat").save_pretrained(tmp_path / "no-cat")
    trained = latents(pipe)
    assert not torch.allclose(trained, base, atol=1e-3), "the control: the erasure does something"

    other = tiny_pipeline()
    other.load_lora_weights(tmp_path / "no-cat", adapter_name="no-cat")
    assert torch.equal(latents(other), trained)
    other.disable_lora()
    assert torch.equal(latents(other), base)


def test_a_channels_last_denoiser_is_saved_too(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    pipe.unet.to(memory_format=torch.channels_last)
    erasure = ESDTrainer(pipe, **QUICK).erase("a cat")
    erasure.save_pretrained(tmp_path / "no-cat")
    assert all(weight.is_contiguous() for weight in erasure.weights.values())


def test_the_same_erasure_is_the_same_file(erasure: Erasure, tmp_path: Path) -> None:
    files = [erasure.save_pretrained(tmp_path / str(i)) / WEIGHTS_NAME for i in range(8)]
    assert len({file.read_bytes() for file in files}) == 1


def test_apply_and_remove(erasure: Erasure) -> None:
    pipe = tiny_pipeline()
    base = latents(pipe)
    erasure.apply(pipe)
    full = latents(pipe)
    erasure.remove(pipe)
    assert torch.equal(latents(pipe), base)
    erasure.apply(pipe, scale=0.0, name="off")
    assert torch.equal(latents(pipe), base)
    assert not torch.allclose(full, base, atol=1e-3)
    with pytest.raises(ValueError, match=re.escape("No adapter 'no-a-cat' on this pipeline; adapters there: off.")):
        erasure.remove(pipe)


def test_apply_stands_beside_the_users_adapter(erasure: Erasure) -> None:
    pipe = tiny_pipeline()
    style_adapter(pipe)
    styled = latents(pipe)
    erasure.apply(pipe, scale=0.5)
    assert pipe.get_active_adapters() == ["style", "no-a-cat"]
    scales = {
        s for layer in pipe.unet.modules() if "style" in (s_ := getattr(layer, "scaling", {})) for s in [s_["style"]]
    }
    assert scales == {0.6}
    assert not torch.allclose(latents(pipe), styled, atol=1e-3)
    erasure.remove(pipe)
    assert torch.equal(latents(pipe), styled)


def test_both_ways(erasure: Erasure, tmp_path: Path) -> None:
    folder = erasure.save_pretrained(tmp_path / "no-cat")
    for path in (folder, folder / WEIGHTS_NAME):
        read = Erasure.from_pretrained(path)
        assert read.to_dict() == erasure.to_dict()
        assert read.provenance == erasure.provenance
        assert read.weights.keys() == erasure.weights.keys()
        assert all(torch.equal(read.weights[key], value) for key, value in erasure.weights.items())
    assert json.loads((folder / JSON_NAME).read_text()) == json.loads(json.dumps(erasure.to_dict()))


def test_a_local_model_is_recorded_without_its_path(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    pipe.save_pretrained(tmp_path / "my-model")
    local = type(pipe).from_pretrained(tmp_path / "my-model")
    local.set_progress_bar_config(disable=True)
    assert ESDTrainer(local, **QUICK).erase("a cat").provenance.base_model == "my-model"


def test_the_header_is_what_every_loader_understands(erasure: Erasure, tmp_path: Path) -> None:
    with safe_open(erasure.save_pretrained(tmp_path / "no-cat") / WEIGHTS_NAME, framework="pt") as file:
        header = file.metadata()
    lora = json.loads(header["lora_adapter_metadata"])
    assert lora.keys() == {f"unet.{k}" for k in ("r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern")}
    assert lora["unet.r"] == lora["unet.lora_alpha"] == 4
    assert json.loads(header[HEADER_KEY])["provenance"]["concepts"] == ["a cat"]
    ranks = {value.shape[0] for key, value in erasure.weights.items() if "lora_A" in key}
    assert ranks == {4}


def test_saving_over_an_erasure_keeps_what_others_put_there(erasure: Erasure, tmp_path: Path) -> None:
    folder = erasure.save_pretrained(tmp_path / "no-cat")
    (folder / "README.md").write_text("my card")
    erasure.save_pretrained(folder)
    assert (folder / "README.md").read_text() == "my card"
    assert {path.name for path in folder.iterdir()} == {"README.md", WEIGHTS_NAME, JSON_NAME}


def test_a_failed_save_leaves_the_former_folder(
    erasure: Erasure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = erasure.save_pretrained(tmp_path / "no-cat")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    for target in (folder, tmp_path / "new"):
        with pytest.raises(OSError, match=r"No space left on device"):
            erasure.save_pretrained(target)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert not (tmp_path / "new").exists()


def test_a_folder_that_holds_something_else_is_refused(erasure: Erasure, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    message = f"{tmp_path} holds something that is no erasure; give a new or an empty folder."
    with pytest.raises(FileExistsError, match=re.escape(message)):
        erasure.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def _missing(path: Path) -> None:
    pass


def _foreign(path: Path) -> None:
    save_file({"unet.conv_in.lora_A.weight": torch.zeros(1)}, path)


def _cut(path: Path) -> None:
    _foreign(path)
    path.write_bytes(path.read_bytes()[:-2])


def _pickle(path: Path) -> None:
    torch.save({"unet.conv_in.lora_A.weight": torch.zeros(1)}, path)


def _text(path: Path) -> None:
    path.write_text("this is no tensor file at all")


@pytest.mark.parametrize(
    ("make", "name", "kind", "message"),
    [
        (_missing, WEIGHTS_NAME, FileNotFoundError, f"there is no {WEIGHTS_NAME}."),
        (_foreign, WEIGHTS_NAME, ValueError, "holds no erasure: its header has no 'diffusers_esd'."),
        (_cut, WEIGHTS_NAME, ValueError, "is damaged or no safetensors file ("),
        (_text, WEIGHTS_NAME, ValueError, "is damaged or no safetensors file ("),
        (_pickle, WEIGHTS_NAME, ValueError, "is damaged or no safetensors file ("),
        (_pickle, "weights.bin", ValueError, "is no safetensors file; only those are read, because others can run "),
    ],
)
def test_what_is_no_erasure_is_refused(
    make: Callable[[Path], None], name: str, kind: type[Exception], message: str, tmp_path: Path
) -> None:
    make(tmp_path / name)
    with pytest.raises(kind, match=re.escape(message)):
        Erasure.from_pretrained(tmp_path / name)


def test_another_architecture_is_refused(erasure: Erasure) -> None:
    wider = tiny_pipeline(unet=tiny_unet(block_out_channels=(16, 64)))
    with pytest.raises(ValueError, match=r"The erasure was trained on another architecture: layer '.*' has weights of"):
        erasure.apply(wider)
    longer = tiny_pipeline(unet=tiny_unet(layers_per_block=2))
    base = latents(longer)
    shorter = ESDTrainer(longer, group="full", **QUICK).erase("a cat")
    pipe = tiny_pipeline()
    with pytest.raises(ValueError, match=r"another architecture: this denoiser has no layer '"):
        shorter.apply(pipe)
    assert not hasattr(pipe.unet, "peft_config")
    shorter.remove(longer)
    assert torch.equal(latents(longer), base)


def test_another_kind_of_pipeline_is_refused(erasure: Erasure) -> None:
    unet = UNet2DModel(sample_size=8, block_out_channels=(32, 32), down_block_types=("DownBlock2D",) * 2,
                       up_block_types=("UpBlock2D",) * 2)  # fmt: skip
    pipe = DDPMPipeline(unet, DDPMScheduler())
    with pytest.raises(ValueError, match=r"^The erasure was trained on another architecture: layer 'conv_in' has "):
        erasure.apply(pipe)
    assert not hasattr(pipe.unet, "peft_config")
    with pytest.raises(ValueError, match=re.escape("pipeline with a transformer; a DDPMPipeline has unet, scheduler.")):
        replace(erasure, provenance=replace(erasure.provenance, component="transformer")).apply(pipe)


def test_apply_checks_names_and_pipeline(erasure: Erasure) -> None:
    pipe = tiny_pipeline()
    erasure.apply(pipe)
    with pytest.raises(ValueError, match=r"^Adapter name 'no-a-cat' is in use on this pipeline \(no-a-cat\); "):
        erasure.apply(pipe)
    with pytest.raises(ValueError, match=r"^Adapter name 'v1.5' has a dot, which PEFT cannot store; use 'v1-5'.$"):
        erasure.apply(pipe, name="v1.5")
    pipe.fuse_lora()
    with pytest.raises(ValueError, match=r"^The pipeline has a fused LoRA"):
        erasure.apply(pipe, name="again")
    assert list(pipe.unet.peft_config) == ["no-a-cat"]
