"""The file: what was trained is, bit for bit, what plain diffusers loads; and it is never half-written."""

from __future__ import annotations

import copy
import json
import operator
import os
import pickle
import re
import resource
import stat
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from controls import must_fail
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from made import made, with_provenance
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import latents, style_adapter, tiny_pipeline, tiny_unet

from diffusers_esd import Erasure, ESDConfig, ESDTrainer
from diffusers_esd.erasure import JSON_NAME
from diffusers_esd.files import HEADER_KEY, WEIGHTS_NAME, stored_dtypes, write_safetensors
from diffusers_esd.provenance import Provenance, bounded_name, default_name, read_record
from diffusers_esd.scales import check_scale

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
    return made(tiny_pipeline())


@pytest.mark.parametrize("group", ["esd-x", "esd-x-strict", "esd-u", "full"])
def test_plain_diffusers_loads_what_was_trained(group: str, tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    base = latents(pipe)
    ESDTrainer(pipe, group=group, **QUICK).erase("a cat").save_pretrained(tmp_path / "no-cat")
    trained = latents(pipe)
    with must_fail("the erasure does something"):
        torch.testing.assert_close(trained, base, rtol=0, atol=1e-3)

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


def test_a_failed_save_leaves_the_former_folder(erasure: Erasure, tmp_path: Path) -> None:
    folder = erasure.save_pretrained(tmp_path / "no-cat")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for target in (folder, tmp_path / "new"):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
            with pytest.raises(OSError, match=r"File too large"):
                erasure.save_pretrained(target)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert not (tmp_path / "new").exists()


def test_a_folder_that_holds_something_else_is_refused(erasure: Erasure, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    message = f"{tmp_path} holds something that is not an erasure; give a new or an empty folder."
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
        (_missing, WEIGHTS_NAME, FileNotFoundError, "give its folder, its file, or the 'user/name' of a repository."),
        (_foreign, WEIGHTS_NAME, ValueError, "is not an erasure: 'diffusers_esd' is missing in its header."),
        (_cut, WEIGHTS_NAME, ValueError, "is damaged or not a safetensors file ("),
        (_text, WEIGHTS_NAME, ValueError, "is damaged or not a safetensors file ("),
        (_pickle, WEIGHTS_NAME, ValueError, "is damaged or not a safetensors file ("),
        (_pickle, "weights.bin", ValueError, "is not a safetensors file; only those are read, because others can run "),
    ],
)
def test_what_is_no_erasure_is_refused(
    make: Callable[[Path], None], name: str, kind: type[Exception], message: str, tmp_path: Path
) -> None:
    make(tmp_path / name)
    with pytest.raises(kind, match=re.escape(message)):
        Erasure.from_pretrained(tmp_path / name)


def test_a_folder_without_an_erasure_is_refused(tmp_path: Path) -> None:
    message = f"No erasure at {tmp_path}: there is no {WEIGHTS_NAME} in this folder."
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        Erasure.from_pretrained(tmp_path)


def test_another_architecture_is_refused(erasure: Erasure) -> None:
    wider = tiny_pipeline(unet=tiny_unet(block_out_channels=(16, 64)))
    with pytest.raises(ValueError, match=r"The erasure was trained on another architecture: layer '.*' has weights of"):
        erasure.apply(wider)
    longer = tiny_pipeline(unet=tiny_unet(layers_per_block=2))
    base = latents(longer)
    shorter = made(longer, group="full")
    shorter.apply(longer)
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


def is_equal(one: Erasure, other: Erasure) -> bool:
    """Whether two are the same in every part."""
    return one.to_dict() == other.to_dict() and all(torch.equal(one.weights[k], v) for k, v in other.weights.items())


def test_an_erasure_is_a_value_that_travels(erasure: Erasure) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        returned = pool.submit(operator.itemgetter(0), [erasure]).result()
    for other in (pickle.loads(pickle.dumps(erasure)), copy.deepcopy(erasure), copy.copy(erasure), returned):
        assert is_equal(other, erasure)
        with pytest.raises(TypeError, match=r"does not support item assignment"):
            other.weights["unet.x"] = torch.zeros(1)
        with pytest.raises(AttributeError, match=r"cannot assign to field 'name'"):
            other.name = "x"
    key = next(iter(erasure.weights))
    assert copy.deepcopy(erasure).weights[key] is not erasure.weights[key]
    with must_fail("other weights are told apart"):
        assert is_equal(Erasure("x", erasure.weights, erasure.config, erasure.provenance), erasure)


def test_its_repr_fits_on_a_screen(erasure: Erasure) -> None:
    long = with_provenance(
        erasure,
        concepts=tuple(f"concept {i}" for i in range(500)),
        history=((0.5, 1.0),) * 9999,
        left_out={"too faint": tuple(f"layer {i}" for i in range(500))},
    )
    for one in (erasure, long):
        assert len(repr(one).splitlines()) <= 8
        assert max(map(len, repr(one).splitlines())) <= 200
    for words in ("no-a-cat", "'a cat'", "StableDiffusionPipeline", "trained 'esd-u'", "rank 4", "alignment -0.50"):
        assert words in repr(erasure)
    assert "layer 1" not in repr(long.provenance)
    assert "9999" not in repr(long.provenance)


@pytest.mark.parametrize(
    ("value", "expected"), [(1, 1.0), (0.5, 0.5), (np.float32(0.5), 0.5), (np.int64(2), 2.0), (np.float16(0.25), 0.25)]
)
def test_scales(value: Any, expected: float) -> None:
    scale = check_scale("scale", value)
    assert (scale, type(scale)) == (expected, float)


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (True, TypeError, "`scale` must be a number, got True of type bool."),
        ("1", TypeError, "`scale` must be a number, got '1' of type str."),
        (None, TypeError, "`scale` must be a number, got None of type NoneType."),
        (np.bool_(True), TypeError, "`scale` must be a number, got "),
        (float("nan"), ValueError, "`scale` must be finite, got nan; 1 is the erasure as trained, 0 the base model."),
        (np.float32("inf"), ValueError, "`scale` must be finite, got inf; 1 is the erasure as trained, 0 the base"),
        (10**400, ValueError, "`scale` must be finite, got 1000"),
    ],
)
def test_what_is_not_a_scale_changes_nothing(value: Any, kind: type[Exception], message: str, erasure: Erasure) -> None:
    pipe = tiny_pipeline()
    with pytest.raises(kind, match=f"^{re.escape(message)}"):
        erasure.apply(pipe, scale=value)
    assert not hasattr(pipe.unet, "peft_config")


def test_a_negative_scale_is_warned_about(erasure: Erasure) -> None:
    with pytest.warns(
        UserWarning, match=r"^`scale` is -1: a negative scale turns an erasure into its inverse"
    ) as caught:
        erasure.apply(tiny_pipeline(), scale=-1.0)
    assert [warning.filename for warning in caught] == [__file__], "it points to the caller's line"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        erasure.apply(tiny_pipeline(), scale=0.0)


def test_names_that_a_file_system_takes() -> None:
    assert default_name(["Van Gogh"]) == "no-van-gogh"
    assert default_name(["a cat", "a dog"]) == "no-a-cat-a-dog"
    assert default_name(["!?"]) == "no-concept"
    many = default_name([f"concept number {i}" for i in range(100)])
    other = default_name([f"concept number {i}" for i in range(101)])
    wide = default_name(["猫" * 100])
    assert many[:-8] == other[:-8]
    assert many != other, "what is cut off counts"
    for name in (many, other, wide):
        assert len(name.encode()) <= 64
        assert re.fullmatch(r"no-.*[^-]-[0-9a-f]{8}", name)
    exact = "x" * 64
    assert bounded_name(exact) == exact
    assert bounded_name(exact + "x") != exact + "x"


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_files_have_the_mode_that_the_umask_gives(umask: int, erasure: Erasure, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        folder = erasure.save_pretrained(tmp_path / "no-cat")
        save_file({"x": torch.zeros(1)}, tmp_path / "control.safetensors")
    finally:
        os.umask(before)
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {
        WEIGHTS_NAME: 0o666 & ~umask,
        JSON_NAME: 0o666 & ~umask,
    }
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~umask
    with must_fail("safetensors' own function does not look at the umask"):
        assert stat.S_IMODE((tmp_path / "control.safetensors").stat().st_mode) == 0o666 & ~umask


FORMER = {
    "concepts": ["a cat"], "base_model": "someone/model", "family": "StableDiffusion", "component": "unet",
    "pattern": "conv_in", "layers": 1, "versions": {}, "iterations": 5, "alignment": 0.5, "seconds": 2.0,
    "evaluations": {"no_grad": 1, "grad": 1}, "complete": True, "history": [[1.0, 0.5]], "parts": [],
    "rank_error": 0.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "origin"),
    [
        ({}, "trained"),
        ({"parts": [["a", 1.0], ["b", 0.5]]}, "merged"),
        ({"parts": [["file.safetensors", 1.0]], "iterations": 0, "alignment": None}, "imported"),
    ],
)
def test_files_of_a_former_version_are_read(changes: dict[str, Any], origin: str, tmp_path: Path) -> None:
    config = {**ESDConfig(rank=2, eta=2.0).to_dict(), "offload": True, "gradient_checkpointing": False, "former": [1]}
    values = {"name": "no-cat", "config": config, "provenance": {**FORMER, **changes}}
    weights = {
        "unet.conv_in.lora_A.weight": torch.ones(2, 4, 3, 3),
        "unet.conv_in.lora_B.weight": torch.ones(16, 2, 1, 1),
    }
    write_safetensors(tmp_path / WEIGHTS_NAME, weights, {HEADER_KEY: json.dumps(values)})
    read = Erasure.from_pretrained(tmp_path)
    assert read.provenance.origin == origin
    assert read.config == (ESDConfig(rank=2, eta=2.0) if origin == "trained" else None)
    assert read.provenance.concepts == ("a cat",)
    assert read.rank == 2
    assert is_equal(Erasure.from_pretrained(read.save_pretrained(tmp_path / "again")), read)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"origin": "found"}, "`origin`: expected one of 'trained', 'merged', 'imported', got 'found'"),
        ({"layers": -1}, "`layers`: expected 0 or more, got -1"),
        ({"layers": True}, "`layers`: expected a whole number, got True"),
        ({"concepts": "a cat"}, "`concepts`: expected a list, got 'a cat'"),
        ({"concepts": [1]}, "`concepts`: expected a string, got 1"),
        ({"leaks": {"conv_in": "0"}}, "`leaks`: expected a number, got '0'"),
        ({"left_out": [1]}, r"`left_out`: expected an object, got \[1\]"),
        ({"complete": 1}, "`complete`: expected True or False, got 1"),
        ({"history": [[1.0]]}, r"`history`: expected a pair, got \[1.0\]"),
        ({"base_fingerprint": "xyz"}, "`base_fingerprint`: expected groups of four hexadecimal digits, got 'xyz'"),
    ],
)
def test_facts_of_the_wrong_kind_are_refused(changes: dict[str, Any], message: str) -> None:
    assert Provenance.from_dict(FORMER).layers == 1
    with pytest.raises((TypeError, ValueError), match=message):
        Provenance.from_dict({**FORMER, **changes})


def test_facts_both_ways(erasure: Erasure) -> None:
    full = replace(
        erasure.provenance,
        left_out={"too faint": ("conv_in", "conv_out")},
        leaks={"conv_in": 0.01},
        alignments={"a cat": -0.5, "a dog": None},
        preserved={"prompts": 5, "moments": 4, "loss": 3},
        active={"style": 0.6},
        beside=("no-dog",),
    )
    values = {"name": "x", "config": None, "provenance": json.loads(json.dumps(full.to_dict()))}
    assert read_record(values) == ("x", None, full)


def test_the_stored_type_of_each_component(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    pipe.unet.half()
    pipe.vae.to(torch.bfloat16)
    pipe.unet.time_embedding.float()
    pipe.save_pretrained(tmp_path)
    save_file({"x": torch.zeros(10**6)}, tmp_path / "unet" / "diffusion_pytorch_model.other.safetensors")
    expected = {"unet": torch.float16, "vae": torch.bfloat16, "text_encoder": torch.float32}
    assert stored_dtypes(tmp_path) == expected, "most of the bytes decide, and a variant is not looked at"
    (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model.safetensors is damaged or not a safetensors file"):
        stored_dtypes(tmp_path)


def test_another_default_device_and_type_do_not_matter(erasure: Erasure, tmp_path: Path) -> None:
    folder = erasure.save_pretrained(tmp_path / "plain")
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        read = Erasure.from_pretrained(folder)
        read.save_pretrained(tmp_path / "other")
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert is_equal(read, erasure)
    assert (tmp_path / "other" / WEIGHTS_NAME).read_bytes() == (folder / WEIGHTS_NAME).read_bytes()
