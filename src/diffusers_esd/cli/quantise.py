"""The option `--quantize`: which quantisations are possible, and a pipeline with a quantised denoiser."""

from __future__ import annotations

import argparse
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

from .parts import Parts

PACKAGES = {"int8": "torchao", "float8": "torchao", "nf4": "bitsandbytes"}
"""The package of each quantisation."""


def check_quantisation(options: argparse.Namespace, device: str) -> None:
    """Refuse a quantisation that is not possible here.

    Raises:
        ValueError: If the device or the model does not allow it.
        ImportError: If its package is missing.
    """
    if options.quantize is None:
        return
    option, package = f"--quantize {options.quantize}", PACKAGES[options.quantize]
    if find_spec(package) is None:
        raise ImportError(f'{option} needs {package}: pip install "diffusers-esd[quantised]".')
    if package == "bitsandbytes" and not device.startswith("cuda"):
        raise ValueError(f"{option} needs a GPU (cuda), and the device is {device}; give int8 or float8.")
    if Path(options.model).is_file():
        raise ValueError(
            f"{option} is for a folder or a repository, and {options.model} is a single file. Leave the option out, or "
            "give the model as a folder."
        )


def load_quantised(options: argparse.Namespace, kind: str, dtype: str, parts: Parts) -> Any:
    """The pipeline of a folder or a repository, with a quantised denoiser.

    Args:
        options: The options of `load_pipeline`.
        kind: One of `PACKAGES`.
        dtype: Type of what is not quantised, and of the computation.
        parts: Which of its parts are loaded.

    Raises:
        ValueError: If the model has neither a U-Net nor a transformer.
        FileNotFoundError: If there is no such model.
        ConnectionError: If the Hub cannot be reached.
    """
    import torch
    from diffusers import BitsAndBytesConfig, DiffusionPipeline, TorchAoConfig
    from diffusers.quantizers.pipe_quant_config import PipelineQuantizationConfig

    from ..denoiser import Component
    from ..hub import locate
    from ..hub_errors import clear_errors

    compute = getattr(torch, dtype)
    config: Any
    if kind == "nf4":
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_compute_dtype=compute)
    else:
        from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig

        config = TorchAoConfig(Int8WeightOnlyConfig() if kind == "int8" else Float8WeightOnlyConfig())
    with clear_errors(options.model, options.revision):
        index = locate(options.model, "model_index.json", token=options.token, revision=options.revision)
        names = [name for name in get_args(Component) if name in json.loads(index.read_text(encoding="utf-8"))]
        if not names:
            raise ValueError(
                f"--quantize {kind} is for the denoiser, and {options.model} has none: expected one of "
                f"{', '.join(get_args(Component))} in its model_index.json. Leave the option out."
            )
        return DiffusionPipeline.from_pretrained(
            options.model,
            dtype=compute,
            quantization_config=PipelineQuantizationConfig(quant_mapping=dict.fromkeys(names, config)),
            variant=options.variant,
            revision=options.revision,
            token=options.token,
            **parts.placeholders(options),
        )
