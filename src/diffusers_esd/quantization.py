"""Quantised base weights: how they are quantised, their shapes and sizes, and their dequantised values.

A quantised layer stores its weight in another type, and often in another shape:

    bitsandbytes  `Params4bit`, two numbers in a byte, in blocks; `Int8Params`, int8 with a scale for each row
    GGUF          `GGUFParameter`, rows of bytes that contain the numbers and the scales of blocks
    torchao       `Int8Tensor` and `Float8Tensor`, which look like the weight and contain numbers and scales

The layers compute with the dequantised weight, and pass on the gradient of their inputs. An adapter beside them is in
float32, as everywhere. Kinds are told by the class of the weight, so that no package is imported that is not in use.

Layerwise casting of diffusers is storage in float8 without scales. diffusers casts a layer's weight when the layer is
called, and casts it back at the end of the call, before a backward pass needs it; see `cast_again`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
_METHODS = ("bitsandbytes", "gguf", "torchao")
_OF_TORCHAO = ("Int8Tensor", "Float8Tensor")
_INSTEAD = (
    "Quantise with bitsandbytes (4 or 8 bits), torchao (Int8WeightOnlyConfig or Float8WeightOnlyConfig) or GGUF, or "
    "load the pipeline in float16 or bfloat16."
)


def quantization(model: nn.Module) -> str:
    """How a model's weights are quantised, such as `"bitsandbytes nf4"`; several kinds are joined by commas.

    Returns:
        The kinds in alphabetical order, or `""` if nothing is quantised.
    """
    kinds = {kind_of(layer) for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
    return ", ".join(sorted(kinds - {""}))


def kind_of(layer: Any) -> str:
    """How the weight of a Linear or Conv2d is quantised, such as `"GGUF Q4_0"`; `""` if it is not."""
    weight = layer.weight
    match type(weight).__name__, _package(weight):
        case "Params4bit", "bitsandbytes":
            return f"bitsandbytes {weight.quant_type}" if weight.quant_state is not None else ""
        case "Int8Params", "bitsandbytes":
            return "bitsandbytes int8" if weight.dtype == torch.int8 else ""
        case "GGUFParameter", _:
            return f"GGUF {weight.quant_type.name}"
        case name, "torchao":
            return f"torchao {name}"
    return f"{weight.dtype} storage".removeprefix("torch.") if weight.dtype in _FLOAT8 else ""


def weight_shape(layer: Any) -> tuple[int, ...]:
    """Shape of the dequantised weight of a Linear, (out, d), or of a Conv2d, (out, d, height, width)."""
    return (layer.out_features, layer.in_features) if isinstance(layer, nn.Linear) else tuple(layer.weight.shape)


def dequantised(layer: Any) -> Tensor:
    """The dequantised weight of a Linear or Conv2d, in the shape of `weight_shape`.

    Returns:
        A tensor of floats; the weight itself, without its gradient, if it is not quantised, or in an unknown way.
    """
    weight, kind = layer.weight.detach(), kind_of(layer)
    match kind.partition(" ")[0]:
        case "bitsandbytes":
            from bitsandbytes import functional

            if kind == "bitsandbytes int8":
                # The first call of the layer moves the scales from the weight to the layer's state.
                scales = layer.weight.SCB if layer.state.SCB is None else layer.state.SCB
                return functional.int8_vectorwise_dequant(weight, scales)
            return functional.dequantize_4bit(weight, layer.weight.quant_state)
        case "GGUF":
            from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor

            return dequantize_gguf_tensor(layer.weight)
        case "torchao":
            return layer.weight.dequantize()
    return weight.float() if weight.dtype in _FLOAT8 else weight


def stored_bytes(tensor: Any) -> int:
    """Bytes of a parameter in memory, without the scales of bitsandbytes, which are stored elsewhere.

    `nbytes` of a torchao tensor is that of the dequantised weight, so its parts are counted.
    """
    if _package(tensor) == "torchao":
        names, _ = tensor.__tensor_flatten__()
        return sum(stored_bytes(getattr(tensor, name)) for name in names)
    return tensor.nbytes


def compute_dtype(model: Any) -> torch.dtype:
    """The type in which a diffusers model computes: that of its first floating parameter that is stored as it is used.

    Packed numbers and adapters do not count. With layerwise casting it is the type that weights are cast to.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and _package(parameter) != "bitsandbytes" and ".lora_" not in name:
            return model.dtype if parameter.dtype in _FLOAT8 else parameter.dtype
    return model.dtype


def untrainable(model: Any) -> str:
    """Why an adapter cannot be trained beside a model's quantised weights, and what to do; `""` if it can."""
    if model.dtype in _FLOAT8:
        return (
            "The denoiser's weights are in float8 without layerwise casting, so it cannot compute. Load the pipeline "
            "in float16, bfloat16 or float32; denoiser.enable_layerwise_casting() stores it in float8."
        )
    quantizer = getattr(model, "hf_quantizer", None)
    method = "" if quantizer is None else str(quantizer.quantization_config.quant_method.value)
    if method and method not in _METHODS:
        return f"The denoiser is quantised with {method}, beside which an adapter cannot train. {_INSTEAD}"
    weights: list[Any] = [layer.weight for layer in model.modules() if isinstance(layer, nn.Linear)]
    for weight in (weight for weight in weights if _package(weight) == "torchao"):
        name = type(weight).__name__
        if name not in _OF_TORCHAO:
            return f"The denoiser's weights are torchao's {name}, beside which an adapter cannot train. {_INSTEAD}"
        if weight.act_quant_kwargs is not None:
            return (
                "The denoiser quantises its activations (torchao), so gradients cannot pass through its layers. "
                + _INSTEAD
            )
    return ""


def check_full_weights(model: nn.Module, purpose: str, remedy: str) -> None:
    """Refuse quantised weights where full ones are needed.

    Args:
        model: The denoiser.
        purpose: What they are needed for, such as `"baking"`.
        remedy: What else to do, as one sentence.

    Raises:
        ValueError: If a weight is quantised.
    """
    if kinds := quantization(model):
        raise ValueError(
            f"The denoiser is quantised ({kinds}), and {purpose} needs full weights. Load the pipeline in float16 or "
            f"bfloat16, without quantization_config or layerwise casting. {remedy}"
        )


def is_in_float8(model: nn.Module) -> bool:
    """Whether weights are stored in float8, as with layerwise casting."""
    return any(parameter.dtype in _FLOAT8 for parameter in model.parameters())


@contextmanager
def cast_again(model: nn.Module) -> Iterator[None]:
    """With layerwise casting, a forward pass whose backward pass casts the weights again.

    Autograd saves a frozen weight as the parameter itself, which is in float8 again when the backward pass needs it.
    Inside, what is saved of such a weight is the parameter with the type that it had.

    Args:
        model: The denoiser. Its blocks must not be checkpointed, because checkpointing saves tensors in its own way.
    """
    if not (torch.is_grad_enabled() and is_in_float8(model)):
        yield
        return
    with torch.autograd.graph.saved_tensors_hooks(_save, _restore):
        yield


def _save(tensor: Tensor) -> Any:
    # A Linear saves its transposed weight, which is a view.
    parameter = tensor if tensor._base is None else tensor._base
    if isinstance(parameter, nn.Parameter) and not parameter.requires_grad:
        return parameter, tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset()
    return tensor


def _restore(saved: Any) -> Tensor:
    if isinstance(saved, Tensor):
        return saved
    parameter, dtype, shape, stride, offset = saved
    return parameter.detach().to(dtype).as_strided(shape, stride, offset)


def _package(tensor: Tensor) -> str:
    return type(tensor).__module__.partition(".")[0]
