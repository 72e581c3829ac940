"""The options that name a base model, and how it is loaded: a folder, a repository or a single file.

A single file contains weights only. Its keys tell diffusers which kind of model it is; the settings of the pipeline are
those of the published model of that kind, or of `--model-config`. So a fine-tune is loaded as the model it was made of;
marks in its file say if it predicts v.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .parts import WHOLE, Parts
from .quantise import PACKAGES, check_quantisation, load_quantised

_INDEX = "model_index.json"


def add_model(parser: Any, *, stored: bool = False, optional: bool = False) -> None:
    """Add the options of `load_pipeline` or, with `stored`, of `load_stored_pipeline`. The model may be `optional`."""
    dtype = "those of its files" if stored else "float32 on the CPU, otherwise bfloat16, or float16 if the GPU lacks it"
    device = "cpu" if stored else "the best that is there"
    text = "the model: folder or Hub id (user/name) of a pipeline, or its single file (.safetensors)"
    if optional:
        parser.add_argument("model", nargs="?", help=f"{text} (default: none)")
    else:
        parser.add_argument("model", help=text)
    given = parser.add_argument_group("how the model is loaded")
    text = f"type of the weights (default: {dtype})"
    given.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help=text)
    given.add_argument("--device", help=f"cuda, cuda:1, mps or cpu (default: {device})")
    given.add_argument("--variant", help="files of this variant, such as fp16 (default: those without one)")
    given.add_argument("--revision", help="branch, tag or commit on the Hub (default: the main branch)")
    text = "for a private or gated repository (default: HF_TOKEN, or that of `hf auth login`)"
    given.add_argument("--token", help=text)
    text = "for a single file: folder or Hub id of a pipeline of the same kind, whose settings it takes (default: "
    given.add_argument("--model-config", help=f"{text}the published model's, from the Hub)")
    if not stored:
        text = "quantise the weights of the denoiser: int8 and float8 (torchao), or nf4 in 4 bits (bitsandbytes, a GPU)"
        given.add_argument("--quantize", choices=tuple(PACKAGES), help=f"{text} (default: they are not quantised)")
    given.add_argument("-q", "--quiet", action="store_true", help="no progress bars, only results")


def load_pipeline(options: argparse.Namespace, parts: Parts = WHOLE) -> Any:
    """The pipeline for training and drawing: on the best device, and in half precision if that is not the CPU.

    Each process of a launcher has a GPU of its own.

    Args:
        options: Those of `add_model`.
        parts: What is needed of it.

    Raises:
        ValueError: If the device is not there, the file is not a model's, or the quantisation is not possible.
        ImportError: If the package of the quantisation is missing.
        FileNotFoundError: If there is no such model.
        ConnectionError: If the Hub cannot be reached.
    """
    import torch

    from ..training.launch import own_device

    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = own_device(_checked_device(options.device or best))
    check_quantisation(options, device)
    half = "bfloat16" if device.startswith("cuda") and torch.cuda.is_bf16_supported() else "float16"
    dtype = options.dtype or ("float32" if device == "cpu" else half)
    return _load(options, device, dtype, parts, options.quantize)


def load_stored_pipeline(options: argparse.Namespace) -> Any:
    """The pipeline for work on the weights themselves: in the types of its files, on the CPU by default.

    Raises:
        ValueError: If the device is not there, or the file is not a model's.
        FileNotFoundError: If there is no such model.
        ConnectionError: If the Hub cannot be reached.
    """
    return _load(options, _checked_device(options.device or "cpu"), options.dtype)


def _checked_device(device: str) -> str:
    import torch

    kind = torch.device(device)
    present = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (kind.index or 0) >= present.get(kind.type, 1):
        raise ValueError(f"--device {device}: PyTorch does not find this device; leave out --device, or give cpu.")
    return device


def _load(
    options: argparse.Namespace, device: str, dtype: str | None, parts: Parts = WHOLE, quantize: str | None = None
) -> Any:
    """The pipeline, in a type or, with `None`, in the types of its files."""
    file = _checked_source(options)
    if quantize is not None:
        pipe = load_quantised(options, quantize, dtype or "float32", parts)
    else:
        pipe = _from_repository(options, dtype, parts) if file is None else _from_file(options, file, dtype)
    if options.quiet:
        pipe.set_progress_bar_config(disable=True)
    return parts.place(pipe, device)


def _checked_source(options: argparse.Namespace) -> Path | None:
    """The file of the model; `None` for a folder or a repository."""
    from ..hub import is_repo_id

    path = Path(options.model)
    if not path.exists() and not is_repo_id(options.model):
        raise FileNotFoundError(f"No model at {path}: give a folder, a .safetensors file, or 'user/name' of the Hub.")
    if path.exists() and options.revision is not None:
        raise ValueError(f"--revision is for a model on the Hub, and {path} is on this computer.")
    if options.model_config is not None and not path.is_file():
        raise ValueError(f"--model-config is for a model in a single file, and {path} is not a file.")
    if path.is_dir() and not (path / _INDEX).is_file():
        raise FileNotFoundError(f"No model at {path}: the folder does not contain {_INDEX}.")
    if not path.is_file():
        return None
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} is not a safetensors file; only those are read, because others can run code.")
    if options.variant is not None:
        raise ValueError(f"--variant is for a folder or a repository, and {path} is a single file.")
    return path


def _from_repository(options: argparse.Namespace, dtype: str | None, parts: Parts) -> Any:
    import torch
    from diffusers import DiffusionPipeline

    from ..files import stored_dtypes
    from ..hub_errors import clear_errors

    given = {"variant": options.variant, "revision": options.revision, "token": options.token}
    with clear_errors(options.model, options.revision):
        if dtype is not None:
            given |= parts.placeholders(options)
            return DiffusionPipeline.from_pretrained(options.model, dtype=getattr(torch, dtype), **given)
        folder = Path(options.model)
        if not folder.is_dir():
            folder = Path(DiffusionPipeline.download(options.model, **given))
        # from_pretrained does not accept dtype="auto", and loads in float32 without a dtype.
        dtypes = {"default": torch.float32, **stored_dtypes(folder, options.variant)}
        return DiffusionPipeline.from_pretrained(options.model, dtype=dtypes, **given)


def _from_file(options: argparse.Namespace, file: Path, dtype: str | None) -> Any:
    import diffusers
    import torch
    from diffusers.loaders.single_file_utils import SingleFileComponentError

    from ..files import stored_dtype, stored_shapes
    from ..hub_errors import clear_errors

    config = options.model_config or _published_config(file)
    try:
        kind = json.loads(_index(file, config, options.token).read_text(encoding="utf-8"))["_class_name"]
        given = {"config": config, "token": options.token, "dtype": getattr(torch, dtype or stored_dtype(file))}
        with clear_errors(config):
            pipe = getattr(diffusers, kind).from_single_file(str(file), **given)
    except (SingleFileComponentError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{file} does not fit the settings of {config} ({error}). Give a pipeline of its kind with --model-config."
        ) from error
    pipe.register_to_config(_name_or_path=str(file))  # as from_pretrained does
    return _as_marked(pipe, stored_shapes(file))


def _as_marked(pipe: Any, keys: Collection[str]) -> Any:
    """The pipeline with the scheduler that marks in its file ask for: tensors without numbers, which diffusers ignores.

    `v_pred`: the model predicts v. `ztsnr`: at the last timestep its states are noise alone. ComfyUI reads them too.
    """
    if "v_pred" in keys and pipe.scheduler.config.get("prediction_type") != "v_prediction":
        noise = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if "ztsnr" in keys else {}
        settings = {**pipe.scheduler.config, "prediction_type": "v_prediction", **noise}
        pipe.scheduler = type(pipe.scheduler).from_config(settings)
    return pipe


def _published_config(file: Path) -> str:
    """The repository of the published model of the same kind."""
    import torch
    from diffusers.loaders.single_file_utils import fetch_diffusers_config

    from ..files import stored_shapes

    shapes = stored_shapes(file)
    if adapter := next((key for key in shapes if "lora" in key), None):
        raise ValueError(f"{file} is an adapter, not a model: it contains {adapter!r}. Give the model that it is for.")
    empty = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    return str(fetch_diffusers_config(empty)["pretrained_model_name_or_path"])


def _index(file: Path, config: str, token: str | None) -> Path:
    from ..hub import locate

    try:
        return locate(config, _INDEX, token=token)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{file} has weights only, and the settings of its pipeline are those of {config}, which cannot be read "
            f"({error}). Give the folder of a pipeline of the same kind with --model-config."
        ) from error


@contextmanager
def loading_bars(*, shown: bool) -> Iterator[None]:
    """With or without the progress bars of diffusers and transformers, for what they load and save."""
    if shown:
        yield
        return
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    switched = [bars for bars in (of_diffusers, of_transformers) if bars.is_progress_bar_enabled()]
    for bars in switched:
        bars.disable_progress_bar()
    try:
        yield
    finally:
        for bars in switched:
            bars.enable_progress_bar()
