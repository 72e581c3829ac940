"""Files of other tools: out and back with equal predictions, in with the error stated."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import published
import pytest
import torch
from controls import must_fail
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from made import made
from safetensors.torch import load_file, save_file
from test_compose import with_deltas
from test_teacher import prediction
from tiny import latents, style_adapter, tiny_flux, tiny_pipeline, tiny_unet, tiny_xl

from diffusers_esd import Erasure, export, import_erasure
from diffusers_esd.denoiser import base_layers, fingerprint
from diffusers_esd.kohya import from_kohya, sgm_names


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
            UserWarning, match=r"^diffusers does not find add_embedding.linear_1, add_embedding.linear_2"
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


def test_what_has_no_such_file() -> None:
    with pytest.raises(ValueError, match=r"^kind='a1111' is unknown; it must be 'kohya'.$"):
        export(erased(tiny_pipeline(), "esd-x"), "x.safetensors", kind="a1111")
    with pytest.raises(ValueError, match=r"^no-a-cat is of a transformer, for which kohya's names are not settled"):
        export(erased(tiny_flux(), "esd-x"), "x.safetensors")


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


def test_files_of_something_else_are_refused(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    save_file({"unet.conv_in.weight": torch.zeros(3, 3)}, tmp_path / "shape.safetensors")
    with pytest.raises(
        ValueError, match=r"^'unet.conv_in.weight' of shape \(3, 3\) is not a weight of this pipeline's unet"
    ):
        import_erasure(tmp_path / "shape.safetensors", pipe, concept="a cat")
    save_file({"lora_unet_nothing.lora_up.weight": torch.zeros(3, 3)}, tmp_path / "names.safetensors")
    with pytest.raises(
        ValueError,
        match=r"names.safetensors does not change this pipeline's unet: expected an adapter in kohya's names",
    ):
        import_erasure(tmp_path / "names.safetensors", pipe, concept="a cat")
    (tmp_path / "weights.ckpt").write_bytes(b"x")
    with pytest.raises(
        ValueError, match=r"weights.ckpt is not a safetensors file; only those are read, because others can"
    ):
        import_erasure(tmp_path / "weights.ckpt", pipe, concept="a cat")


def test_what_is_more_than_a_lora_is_refused_and_what_is_left_is_told(tmp_path: Path) -> None:
    key = "lora_unet_conv_in"
    weights = {f"{key}.lora_down.weight": torch.randn(2, 4, 3, 3), f"{key}.lora_up.weight": torch.randn(16, 2, 1, 1)}
    save_file({**weights, f"{key}.diff_b": torch.zeros(16)}, tmp_path / "bias.safetensors")
    with pytest.warns(UserWarning, match=r"^1 entries of bias.safetensors .*lora_unet_conv_in.diff_b"):
        import_erasure(tmp_path / "bias.safetensors", tiny_pipeline(), concept="a cat")
    save_file({**weights, f"{key}.dora_scale": torch.zeros(16)}, tmp_path / "dora.safetensors")
    with pytest.raises(ValueError, match=r"^'lora_unet_conv_in.dora_scale' belongs to a DoRA or a Tucker"):
        import_erasure(tmp_path / "dora.safetensors", tiny_pipeline(), concept="a cat")
    with pytest.raises(ValueError, match=r"^rank=0 is too small"):
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


def test_sdxl_in_the_names_of_its_first_code_is_read() -> None:
    """sd-scripts writes SDXL's blocks as Stability's own code calls them."""
    denoiser = published.MODELS["SDXL"].build()
    names = {
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k": (
            "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
        ),
        "lora_unet_middle_block_1_transformer_blocks_9_attn1_to_out_0": (
            "mid_block.attentions.0.transformer_blocks.9.attn1.to_out.0"
        ),
        "lora_unet_output_blocks_5_1_transformer_blocks_1_ff_net_2": (
            "up_blocks.1.attentions.2.transformer_blocks.1.ff.net.2"
        ),
    }
    names |= {
        "lora_unet_input_blocks_0_0": "conv_in",
        "lora_unet_input_blocks_3_0_op": "down_blocks.0.downsamplers.0.conv",
        "lora_unet_input_blocks_4_0_in_layers_2": "down_blocks.1.resnets.0.conv1",
        "lora_unet_input_blocks_4_0_skip_connection": "down_blocks.1.resnets.0.conv_shortcut",
        "lora_unet_middle_block_2_emb_layers_1": "mid_block.resnets.1.time_emb_proj",
        "lora_unet_output_blocks_2_2_conv": "up_blocks.0.upsamplers.0.conv",
        "lora_unet_time_embed_2": "time_embedding.linear_2",
        "lora_unet_label_emb_0_0": "add_embedding.linear_1",
        "lora_unet_out_2": "conv_out",
    }
    weights = {}
    for i, stem in enumerate(names):
        weights[f"{stem}.lora_down.weight"] = torch.full((1, 2), float(i))
        weights[f"{stem}.lora_up.weight"] = torch.ones(2, 1)
        weights[f"{stem}.alpha"] = torch.tensor(1.0)
    found, left = from_kohya(weights, base_layers(denoiser))
    expected = {name: float(i) for i, name in enumerate(names.values())}
    assert {layer: a[0, 0].item() for layer, (a, _) in found.items()} == expected
    assert left == []


def sd1_shaped() -> Any:
    """Blocks as Stable Diffusion 1 has them, twelve in and twelve out, narrow."""
    unet = tiny_unet(
        down_block_types=(*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
        up_block_types=("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=2,
        sample_size=16,
    )
    return tiny_pipeline(unet=unet)


def ldm_names() -> list[str]:
    """The layers of Stable Diffusion 1 as Stability's own code calls them, written down from that code."""
    resnet = ["in_layers.2", "emb_layers.1", "out_layers.3"]
    block = "transformer_blocks.0"
    sides = [f"{block}.attn{i}.to_{side}" for i in (1, 2) for side in ("q", "k", "v", "out.0")]
    attention = ["proj_in", *sides, f"{block}.ff.net.0.proj", f"{block}.ff.net.2", "proj_out"]
    names = ["time_embed.0", "time_embed.2", "out.2", "input_blocks.0.0"]
    for i in range(1, 12):
        names += [f"input_blocks.{i}.0.op"] if i % 3 == 0 else [f"input_blocks.{i}.0.{layer}" for layer in resnet]
        names += [f"input_blocks.{i}.1.{layer}" for layer in attention if i % 3 and i < 9]
    names += [f"middle_block.{i}.{layer}" for i in (0, 2) for layer in resnet]
    names += [f"middle_block.1.{layer}" for layer in attention]
    for i in range(12):
        names += [f"output_blocks.{i}.0.{layer}" for layer in [*resnet, "skip_connection"]]
        names += [f"output_blocks.{i}.1.{layer}" for layer in attention if i > 2]
        if i in (2, 5, 8):
            names.append(f"output_blocks.{i}.{1 if i == 2 else 2}.conv")
    return [*names, "input_blocks.7.0.skip_connection"]


def converted(names: list[str]) -> dict[str, str]:
    """These names by what diffusers' converter of whole checkpoints calls the layers."""
    checkpoint = {
        f"model.diffusion_model.{name}.{kind}": torch.tensor(i)
        for i, name in enumerate(names)
        for kind in ("weight", "bias")
    }
    state = convert_ldm_unet_checkpoint(checkpoint, {"layers_per_block": 2})
    return {key.removesuffix(".weight"): names[int(value)] for key, value in state.items() if key.endswith(".weight")}


def test_stable_diffusion_1_in_the_names_of_its_first_code_is_read(tmp_path: Path) -> None:
    pipe = sd1_shaped()
    names = sgm_names(base_layers(pipe.unet))
    assert names == converted(ldm_names())
    assert set(names) == set(base_layers(pipe.unet))
    with must_fail("blocks of one layer are counted otherwise"):
        assert sgm_names(base_layers(tiny_pipeline().unet)).items() <= names.items()

    erasure = made(pipe, group="full", rank=2)
    weights = {}
    for layer, (a, b) in erasure.layers().items():
        stem = "lora_unet_" + names[layer].replace(".", "_")
        weights |= {f"{stem}.lora_down.weight": a, f"{stem}.lora_up.weight": b, f"{stem}.alpha": torch.tensor(2.0)}
    assert "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k.alpha" in weights
    assert "lora_unet_input_blocks_10_0_in_layers_2.alpha" in weights
    save_file(weights, tmp_path / "sgm.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = import_erasure(tmp_path / "sgm.safetensors", pipe, concept="a cat")
    assert again.weights.keys() == erasure.weights.keys()
    assert all(torch.equal(value, erasure.weights[key]) for key, value in again.weights.items())


def test_a_file_that_fits_no_layer_names_what_it_has(tmp_path: Path) -> None:
    save_file({"lora_unet_input_blocks_99_1_proj_in.lora_up.weight": torch.zeros(2, 2)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"full weights that differ. It has lora_unet_input_blocks_99_1_proj_in"):
        import_erasure(tmp_path / "x.safetensors", sd1_shaped(), concept="a cat")


def test_an_import_claims_no_training(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    file = export(made(pipe), tmp_path / "no-cat.safetensors")
    imported = import_erasure(file, pipe, concept="a cat")
    facts = imported.provenance
    assert (imported.config, imported.rank, facts.origin, facts.iterations) == (None, 4, "imported", 0)
    assert facts.base_fingerprint == fingerprint(pipe.unet)
    assert facts.parts == (("no-cat.safetensors", 1.0),)
    assert Erasure.from_pretrained(imported.save_pretrained(tmp_path / "imported")).provenance == facts


def test_what_is_saved_can_be_exported_by_its_path(tmp_path: Path) -> None:
    erasure = made(tiny_pipeline())
    folder = erasure.save_pretrained(tmp_path / "no-cat")
    files = [export(source, tmp_path / f"{i}.safetensors") for i, source in enumerate((erasure, folder, str(folder)))]
    assert len({file.read_bytes() for file in files}) == 1
    with pytest.raises(FileNotFoundError, match=r"^No erasure at nowhere"):
        export("nowhere", tmp_path / "x.safetensors")


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
