"""The small model with quantised base weights, of every kind that training supports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import bitsandbytes
import gguf
import torch
from diffusers import (
    DiffusionPipeline,
    GGUFQuantizationConfig,
    PipelineQuantizationConfig,
    TorchAoConfig,
    UNet2DConditionModel,
)
from emoji_sd import WEIGHTS, load
from torch import Tensor, nn
from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig


def torchao(config: Any) -> DiffusionPipeline:
    """Quantised by torchao while it is loaded."""
    mapping = PipelineQuantizationConfig(quant_mapping={"unet": TorchAoConfig(config)})
    return DiffusionPipeline.from_pretrained(str(WEIGHTS), dtype=torch.float32, quantization_config=mapping)


def with_bitsandbytes(kind: str) -> DiffusionPipeline:
    """Quantised by bitsandbytes as diffusers does it on a GPU: diffusers refuses to do it on a CPU."""
    pipe: Any = load()
    for name, layer in list(pipe.unet.named_modules()):
        if type(layer) is nn.Linear:
            pipe.unet.set_submodule(name, _of_bitsandbytes(layer, kind))
    pipe.unet.is_loaded_in_8bit, pipe.unet.is_loaded_in_4bit = kind == "int8", kind != "int8"
    return pipe


def _of_bitsandbytes(layer: nn.Linear, kind: str) -> nn.Module:
    shape, weight = (layer.in_features, layer.out_features, layer.bias is not None), layer.weight.detach()
    new: Any
    if kind == "int8":
        new = bitsandbytes.nn.Linear8bitLt(*shape, has_fp16_weights=False, threshold=6.0)
        new.weight = bitsandbytes.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    else:
        new = bitsandbytes.nn.Linear4bit(*shape, compute_dtype=torch.float32, quant_type=kind)
        new.weight = bitsandbytes.nn.Params4bit(weight, requires_grad=False, quant_type=kind)
        # Some CPUs, and no GPU, would get weights in another order when the layer is first called.
        new.support_avx512bf16_for_cpu = False
    new.bias = layer.bias
    return new.to("cpu").requires_grad_(False).eval()


def with_gguf(kind: str) -> DiffusionPipeline:
    """The matrices of the U-Net written to a GGUF file, in blocks of 32 numbers, and read from it."""
    quantised = gguf.GGMLQuantizationType[kind]
    with TemporaryDirectory() as folder:
        file = Path(folder) / "unet.gguf"
        writer = gguf.GGUFWriter(file, "unet")
        for key, value in load().unet.state_dict().items():
            if value.dim() == 2 and value.shape[1] % 32 == 0:
                writer.add_tensor(key, gguf.quants.quantize(value.numpy(), quantised), raw_dtype=quantised)
            else:
                writer.add_tensor(key, value.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        options = {"config": str(WEIGHTS), "subfolder": "unet", "dtype": torch.float32}
        config = GGUFQuantizationConfig(compute_dtype=torch.float32)
        unet = UNet2DConditionModel.from_single_file(str(file), **options, quantization_config=config)
    return DiffusionPipeline.from_pretrained(str(WEIGHTS), unet=unet, dtype=torch.float32)


def with_layerwise_casting() -> DiffusionPipeline:
    """Stored in float8, cast when a layer is called."""
    pipe: Any = load()
    pipe.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    return pipe


def quietly(build: Callable[[], DiffusionPipeline]) -> Callable[[], DiffusionPipeline]:
    """Without progress bars."""

    def quiet() -> DiffusionPipeline:
        pipe = build()
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return quiet


QUANTISED: dict[str, Callable[[], DiffusionPipeline]] = {
    "torchao Int8Tensor": quietly(lambda: torchao(Int8WeightOnlyConfig())),
    "torchao Float8Tensor": quietly(lambda: torchao(Float8WeightOnlyConfig())),
    "bitsandbytes int8": quietly(lambda: with_bitsandbytes("int8")),
    "bitsandbytes nf4": quietly(lambda: with_bitsandbytes("nf4")),
    "bitsandbytes fp4": quietly(lambda: with_bitsandbytes("fp4")),
    "GGUF Q8_0": quietly(lambda: with_gguf("Q8_0")),
    "GGUF Q4_0": quietly(lambda: with_gguf("Q4_0")),
    "float8_e4m3fn storage": quietly(with_layerwise_casting),
}


def stored(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all numbers that a model stores of its base, by name: also those inside of quantised weights."""
    parts: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        key = name.replace(".base_layer", "")
        if ".lora_" not in key:
            parts |= {f"{key}.{part}": tensor.clone() for part, tensor in _parts(parameter).items()}
    return parts


def _parts(tensor: Any) -> dict[str, Tensor]:
    if hasattr(tensor, "__tensor_flatten__"):  # a tensor of torchao
        return {name: getattr(tensor, name).detach() for name in tensor.__tensor_flatten__()[0]}
    own = tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor.detach()  # a parameter of a GGUF file
    own = own.view(torch.uint8) if own.dtype == torch.float8_e4m3fn else own
    return {"own": own, **({"scales": tensor.quant_state.absmax} if hasattr(tensor, "quant_state") else {})}


@torch.no_grad()
def predicted(pipe: Any, prompt: str = "a cat") -> Tensor:
    """The denoiser's prediction for fixed noise."""
    unet = pipe.unet
    sides = (unet.config.in_channels, *[unet.config.sample_size] * 2)
    x_t = torch.randn((2, *sides), generator=torch.Generator().manual_seed(0))
    states = pipe.encode_prompt(prompt, "cpu", 2, False)[0]
    return unet(x_t, 500, states).sample
