"""Files of other tools: out and back with equal predictions, in with the error of the lower rank."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from controls import must_fail
from made import made
from pipelines import prediction, with_deltas
from safetensors.torch import load_file, save_file
from tiny import latents, style_adapter, tiny_flux, tiny_pipeline, tiny_xl

from diffusers_esd import Erasure, export, import_erasure
from diffusers_esd.base_model import fingerprint


def erased(pipe: Any, group: str) -> Erasure:
    return made(pipe, group=group, rank=2)


@pytest.mark.parametrize("group", ["esd-x", "full"])
def test_kohyas_file_loads_in_diffusers_with_equal_predictions(group: str, tmp_path: Path) -> None:
    erasure = erased(tiny_pipeline(), group)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        file = export(erasure, tmp_path / "no-cat.kohya.safetensors")
    pipe = tiny_pipeline()
    pipe.load_lora_weights(tmp_path, weight_name=file.name)
    expected = prediction(with_deltas(tiny_pipeline(), {erasure: 1.0}))
    torch.testing.assert_close(prediction(pipe), expected, rtol=1e-4, atol=1e-5)
    with must_fail("the erasure does something"):
        torch.testing.assert_close(prediction(tiny_pipeline()), expected, rtol=0, atol=1e-3)
    alphas = {value.item() for key, value in load_file(file).items() if key.endswith(".alpha")}
    assert alphas == {2.0}


@pytest.mark.parametrize("group", ["esd-x", "esd-u"])
def test_kohyas_file_of_sdxl_and_its_gap(group: str, tmp_path: Path) -> None:
    erasure = erased(tiny_xl(), group)
    gap = [layer for layer in erasure.layers() if layer.startswith("add_embedding")]
    if group == "esd-u":
        with pytest.warns(
            UserWarning, match=r"^diffusers does not load add_embedding.linear_1, add_embedding.linear_2"
        ):
            file = export(erasure, tmp_path / "no-cat.safetensors")
        assert gap
        kept = {key: value for key, value in erasure.weights.items() if "add_embedding" not in key}
        erasure = Erasure(erasure.name, kept, erasure.config, erasure.provenance)
    else:
        file = export(erasure, tmp_path / "no-cat.safetensors")
        assert not gap
    pipe = tiny_xl()
    pipe.load_lora_weights(tmp_path, weight_name=file.name)
    expected = latents(with_deltas(tiny_xl(), {erasure: 1.0}))
    torch.testing.assert_close(latents(pipe), expected, rtol=1e-4, atol=1e-4)
    with must_fail("the erasure does something"):
        torch.testing.assert_close(latents(tiny_xl()), expected, rtol=0, atol=1e-3)


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^`tool` must be one of comfyui, .*, got 'sdnext'.$"):
        export(erased(tiny_pipeline(), "esd-x"), "x.safetensors", tool="sdnext")  # type: ignore[arg-type]
    erasure = erased(tiny_pipeline(), "esd-x")
    own = erasure.save_pretrained(tmp_path / "own") / "pytorch_lora_weights.safetensors"
    before = own.read_bytes()
    with pytest.raises(FileExistsError, match=r"is the file of an erasure, which the export would replace; give a"):
        export(erasure, own)
    assert own.read_bytes() == before
    with pytest.raises(ValueError, match=r"is an erasure of this package, and needs no import: use it wherever an e"):
        import_erasure(own, tiny_pipeline(), concept="a cat")
    with pytest.raises(ValueError, match=r"^`path` must end in .safetensors, got x.bin.$"):
        export(erased(tiny_pipeline(), "esd-x"), "x.bin")
    with pytest.raises(ValueError, match=r"^no-a-cat is an erasure of a transformer; kohya's names exist for a U-Net"):
        export(erased(tiny_flux(), "esd-x"), "x.safetensors")
    with pytest.raises(ValueError, match=r"^A1111 cannot read erasures of the family Flux; ComfyUI, "):
        export(erased(tiny_flux(), "esd-x"), "x.safetensors", tool="a1111")
    message = r"^InvokeAI finds none of the \d+ layers of no-a-cat, such as transformer_blocks.0.attn.add_"
    with pytest.raises(ValueError, match=message):
        export(erased(tiny_flux(), "esd-x"), tmp_path / "x.safetensors", tool="invokeai")
    assert not (tmp_path / "x.safetensors").exists()


def test_layers_that_a_tool_does_not_find_are_named_with_their_share(tmp_path: Path) -> None:
    erasure = erased(tiny_xl(), "full")
    missing = ["conv_in", "time_embedding.linear_1", "time_embedding.linear_2", "add_embedding.linear_1"]
    missing += ["add_embedding.linear_2", "conv_out"]
    squares = {name: (b.flatten(1) @ a.flatten(1)).square().sum().item() for name, (a, b) in erasure.layers().items()}
    part = sum(squares[name] for name in missing) / sum(squares.values())
    message = (
        f"stable-diffusion.cpp does not find 6 of the {len(squares)} layers of no-a-cat, with {part:.2%} of its "
        f"squared norm: {', '.join(missing[:5])}, ...."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        export(erasure, tmp_path / "x.safetensors", tool="stable-diffusion.cpp")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export(erasure, tmp_path / "x.safetensors", tool="comfyui")


def test_a_tool_that_reads_diffusers_names_gets_them(tmp_path: Path) -> None:
    erasure = erased(tiny_flux(), "full")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        file = export({erasure: 0.5}, tmp_path / "half.safetensors", tool="comfyui")
    weights = load_file(file)
    assert weights.keys() == erasure.weights.keys()
    for key, value in weights.items():
        factor = 0.5 if key.endswith("lora_B.weight") else 1.0
        assert torch.equal(value, factor * erasure.weights[key])
    assert type(tiny_flux()).lora_state_dict(str(file)).keys() == weights.keys()


def test_kohyas_file_comes_back_as_it_went(tmp_path: Path) -> None:
    erasure = erased(tiny_pipeline(), "full")
    again = import_erasure(export(erasure, tmp_path / "no-cat.safetensors"), tiny_pipeline(), concept="a cat")
    assert again.name == "no-cat"
    assert again.weights.keys() == erasure.weights.keys()
    assert all(torch.equal(value, erasure.weights[key]) for key, value in again.weights.items())


def test_an_alpha_is_folded_ranks_are_levelled_and_text_encoders_are_reported(tmp_path: Path) -> None:
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    pipe = tiny_pipeline()
    weight = pipe.unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn2.to_k").weight
    down, up = torch.randn(2, weight.shape[1]), torch.randn(weight.shape[0], 2)
    conv_down, conv_up = torch.randn(4, 4, 3, 3), torch.randn(16, 4, 1, 1)
    save_file(
        {
            f"{key}.lora_down.weight": down,
            f"{key}.lora_up.weight": up,
            f"{key}.alpha": torch.tensor(1.0),
            "lora_unet_conv_in.lora_down.weight": conv_down,
            "lora_unet_conv_in.lora_up.weight": conv_up,
            "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.randn(2, 2),
        },
        tmp_path / "leco.safetensors",
    )
    with pytest.warns(UserWarning, match=r"^1 entries of leco.safetensors are not part of the erasure"):
        erasure = import_erasure(tmp_path / "leco.safetensors", pipe, concept="a cat")
    assert erasure.rank == 4
    a, b = erasure.layers()["mid_block.attentions.0.transformer_blocks.0.attn2.to_k"]
    torch.testing.assert_close(b @ a, 0.5 * up @ down)
    a, b = erasure.layers()["conv_in"]
    torch.testing.assert_close(b.flatten(1) @ a.flatten(1), conv_up.flatten(1) @ conv_down.flatten(1))


@pytest.mark.parametrize("prefix", ["", "unet."])
def test_full_weights_become_an_adapter_with_the_error_stated(prefix: str, tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    names = ["mid_block.attentions.0.transformer_blocks.0.attn2.to_v.weight", "conv_in.weight", "conv_out.weight"]
    generator = torch.Generator().manual_seed(0)
    trained = {name: pipe.unet.state_dict()[name].clone() for name in names}
    for name in names[:2]:
        trained[name] += 0.1 * torch.randn(trained[name].shape, generator=generator)
    trained["conv_in.bias"] = pipe.unet.state_dict()["conv_in.bias"] + 1
    save_file({prefix + name: value for name, value in trained.items()}, tmp_path / "esd.safetensors")
    exact = 0.0
    for rank in (4, 64):
        with pytest.warns(UserWarning, match=r"conv_in.bias\)\.$"):
            erasure = import_erasure(tmp_path / "esd.safetensors", pipe, concept="a cat", rank=rank)
        assert set(erasure.layers()) == {name.removesuffix(".weight") for name in names[:2]}
        lost = total = 0.0
        for layer, (a, b) in erasure.layers().items():
            name = f"{layer}.weight"
            delta = (trained[name] - pipe.unet.state_dict()[name]).flatten(1)
            lost += (delta - b.flatten(1) @ a.flatten(1)).square().sum().item()
            total += delta.square().sum().item()
        exact = (lost / total) ** 0.5
        assert erasure.provenance.rank_error == pytest.approx(exact, abs=1e-4)
    assert exact < 1e-4, "at full rank nothing is lost"


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    save_file({"unet.conv_in.weight": torch.zeros(3, 3)}, tmp_path / "shape.safetensors")
    with pytest.raises(
        ValueError, match=r"^'unet.conv_in.weight' of shape \(3, 3\) is not a weight of this pipeline's unet"
    ):
        import_erasure(tmp_path / "shape.safetensors", pipe, concept="a cat")
    save_file({"lora_unet_nothing.lora_up.weight": torch.zeros(3, 3)}, tmp_path / "names.safetensors")
    with pytest.raises(
        ValueError,
        match=r"names.safetensors does not change this pipeline's unet: expected an adapter with kohya's names",
    ):
        import_erasure(tmp_path / "names.safetensors", pipe, concept="a cat")
    (tmp_path / "weights.ckpt").write_bytes(b"x")
    with pytest.raises(
        ValueError, match=r"weights.ckpt is not a safetensors file; only those are read, because others can"
    ):
        import_erasure(tmp_path / "weights.ckpt", pipe, concept="a cat")


def test_more_than_a_lora_is_refused_and_what_is_not_imported_is_named(tmp_path: Path) -> None:
    key = "lora_unet_conv_in"
    weights = {f"{key}.lora_down.weight": torch.randn(2, 4, 3, 3), f"{key}.lora_up.weight": torch.randn(16, 2, 1, 1)}
    save_file({**weights, f"{key}.diff_b": torch.zeros(16)}, tmp_path / "bias.safetensors")
    with pytest.warns(UserWarning, match=r"^1 entries of bias.safetensors .*lora_unet_conv_in.diff_b"):
        import_erasure(tmp_path / "bias.safetensors", tiny_pipeline(), concept="a cat")
    save_file({**weights, f"{key}.dora_scale": torch.zeros(16)}, tmp_path / "dora.safetensors")
    with pytest.raises(ValueError, match=r"^'lora_unet_conv_in.dora_scale' belongs to a DoRA or a Tucker"):
        import_erasure(tmp_path / "dora.safetensors", tiny_pipeline(), concept="a cat")
    with pytest.raises(ValueError, match=r"^`rank` must be 1 or more, got 0"):
        import_erasure(tmp_path / "dora.safetensors", tiny_pipeline(), concept="a cat", rank=0)


def test_full_weights_that_a_half_precision_base_only_rounds_are_no_change(tmp_path: Path) -> None:
    weights = {key: value.clone() for key, value in tiny_pipeline().unet.state_dict().items()}
    weights["conv_in.weight"] += 0.5
    save_file(weights, tmp_path / "esd.safetensors")
    for dtype in (torch.float32, torch.float16):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            erasure = import_erasure(tmp_path / "esd.safetensors", tiny_pipeline().to(dtype), concept="a cat")
        assert list(erasure.layers()) == ["conv_in"]


def test_an_import_claims_no_training(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    file = export(made(pipe), tmp_path / "no-cat.safetensors")
    imported = import_erasure(file, pipe, concept="a cat")
    provenance = imported.provenance
    assert (imported.config, imported.rank, provenance.origin, provenance.iterations) == (None, 4, "imported", 0)
    assert provenance.base_fingerprint == fingerprint(pipe.unet)
    assert provenance.parts == (("no-cat.safetensors", 1.0),)
    assert Erasure.from_pretrained(imported.save_pretrained(tmp_path / "imported")).provenance == provenance


def test_what_is_saved_can_be_exported_by_its_path(tmp_path: Path) -> None:
    erasure = made(tiny_pipeline())
    folder = erasure.save_pretrained(tmp_path / "no-cat")
    files = [export(source, tmp_path / f"{i}.safetensors") for i, source in enumerate((erasure, folder, str(folder)))]
    assert len({file.read_bytes() for file in files}) == 1
    with pytest.raises(FileNotFoundError, match=r"^Nothing to read at nowhere"):
        export("nowhere", tmp_path / "x.safetensors")


def test_several_are_exported_as_their_exact_sum(tmp_path: Path) -> None:
    cat = made(tiny_pipeline(), group="esd-x", rank=2)
    dog = made(tiny_pipeline(), "a dog", group="full", rank=3, seed=1)
    export({cat: 1.0, dog: 0.5}, tmp_path / "both.safetensors")
    pipe = tiny_pipeline()
    pipe.load_lora_weights(tmp_path, weight_name="both.safetensors")
    expected = prediction(with_deltas(tiny_pipeline(), {cat: 1.0, dog: 0.5}))
    torch.testing.assert_close(prediction(pipe), expected, rtol=1e-4, atol=1e-5)
    with must_fail("the scale counts"):
        other = prediction(with_deltas(tiny_pipeline(), {cat: 1.0, dog: 1.0}))
        torch.testing.assert_close(other, expected, rtol=0, atol=1e-3)
    listed = export([cat, dog], tmp_path / "list.safetensors").read_bytes()
    assert listed == export({cat: 1.0, dog: 1.0}, tmp_path / "mapping.safetensors").read_bytes()
    assert listed != (tmp_path / "both.safetensors").read_bytes()
    single = export(cat, tmp_path / "single.safetensors").read_bytes()
    assert single == export([cat], tmp_path / "one.safetensors").read_bytes()
    with pytest.raises(ValueError, match=r"^`erasures` is empty"):
        export([], tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


def test_full_weights_are_not_compared_with_a_fused_base(tmp_path: Path) -> None:
    weights = {key: value.clone() for key, value in tiny_pipeline().unet.state_dict().items()}
    weights["conv_in.weight"] += 0.5
    save_file(weights, tmp_path / "esd.safetensors")
    pipe = tiny_pipeline()
    style_adapter(pipe)
    assert list(import_erasure(tmp_path / "esd.safetensors", pipe, concept="a cat").layers()) == ["conv_in"]
    pipe.fuse_lora()
    with pytest.raises(ValueError, match=r"^The pipeline has a fused LoRA"):
        import_erasure(tmp_path / "esd.safetensors", pipe, concept="a cat")


def test_an_import_with_another_default_device(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    erasure = made(pipe)
    try:
        torch.set_default_device("meta")
        again = import_erasure(export(erasure, tmp_path / "no-cat.safetensors"), pipe, concept="a cat")
    finally:
        torch.set_default_device(None)
    assert all(torch.equal(value, erasure.weights[key]) for key, value in again.weights.items())
