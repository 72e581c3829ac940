"""`Erasure`: the trained, small, portable result, and the two files it is saved as.

`pytorch_lora_weights.safetensors` is the one that plain `pipe.load_lora_weights` reads in every diffusers since 0.30:
PEFT's keys, the scale folded into B, one rank, minimal metadata. What the erasure was trained on stands in a header
key of the same file, and for readers in `erasure.json` beside it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from diffusers import DiffusionPipeline
from diffusers.utils.torch_utils import unwrap_module
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from . import adapter
from .config import ESDConfig

WEIGHTS_NAME = "pytorch_lora_weights.safetensors"
JSON_NAME = "erasure.json"
HEADER_KEY = "diffusers_esd"


@dataclass(frozen=True)
class Provenance:
    """What an erasure was trained on and how it went.

    Attributes:
        concepts: The erased concepts.
        base_model: Hub id or local name of the pipeline's model.
        family: Name of the family's class.
        component: The denoiser's name in the pipeline.
        pattern: Regular expression of the layers, as PEFT reads it.
        layers: How many layers carry the adapter.
        versions: Versions of the packages.
        iterations: Optimiser updates that were made.
        alignment: Smoothed alignment at the end: 1 is intact, `-eta` the target.
        seconds: Time the training took.
        evaluations: Samples the denoiser evaluated, by `"no_grad"` and `"grad"`.
        complete: `False` if the training was interrupted.
        history: Loss and alignment of each iteration.
        parts: Of a merged erasure: the names of what it was merged from, and their weights.
        rank_error: Relative error of the best approximation at this rank, where the weights are one: the root of the
            squared differences of all layers' products, over that of the products.
    """

    concepts: tuple[str, ...]
    base_model: str
    family: str
    component: str
    pattern: str
    layers: int
    versions: dict[str, str]
    iterations: int
    alignment: float | None
    seconds: float
    evaluations: dict[str, int]
    complete: bool
    history: tuple[tuple[float, float], ...]
    parts: tuple[tuple[str, float], ...] = ()
    rank_error: float = 0.0


@dataclass(frozen=True, eq=False)
class Erasure:
    """A trained erasure.

    Attributes:
        name: Default name of the adapter on a pipeline.
        weights: Tensors by portable key, float32, on the CPU.
        config: The configuration it was trained with.
        provenance: What it was trained on and how it went.
    """

    name: str
    weights: Mapping[str, Tensor]
    config: ESDConfig
    provenance: Provenance

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", MappingProxyType(dict(self.weights)))

    @property
    def rank(self) -> int:
        """Rank in every layer."""
        return self.config.rank

    def layers(self) -> dict[str, tuple[Tensor, Tensor]]:
        """A and B of each layer by module name; the product of both, as matrices, is what is added to the weight."""
        prefix, suffix = f"{self.provenance.component}.", ".lora_A.weight"
        names = [key.removeprefix(prefix).removesuffix(suffix) for key in self.weights if key.endswith(suffix)]
        return {
            name: (self.weights[f"{prefix}{name}{suffix}"], self.weights[f"{prefix}{name}.lora_B.weight"])
            for name in names
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything but the weights, as JSON types."""
        return {"name": self.name, "config": self.config.to_dict(), "provenance": asdict(self.provenance)}

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write the weights and `erasure.json`, each whole or not at all.

        Args:
            folder: A new or empty folder, or one that holds an erasure, which is replaced.

        Returns:
            The folder.

        Raises:
            FileExistsError: If the folder holds something else.
        """
        folder = Path(folder)
        if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / JSON_NAME).is_file()):
            raise FileExistsError(f"{folder} holds something that is no erasure; give a new or an empty folder.")
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        temporary = {name: folder / f".{name}.{os.getpid()}.tmp" for name in (WEIGHTS_NAME, JSON_NAME)}
        try:
            save_file(dict(self.weights), temporary[WEIGHTS_NAME], metadata=self._header())
            temporary[JSON_NAME].write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
            for name, path in temporary.items():
                path.replace(folder / name)
        finally:
            for path in temporary.values():
                path.unlink(missing_ok=True)
            if is_new and not any(folder.iterdir()):
                folder.rmdir()
        return folder

    def _header(self) -> dict[str, str]:
        # Older loaders need both patterns, and fail on any key that their PEFT does not know.
        lora = {
            "r": self.rank,
            "lora_alpha": self.rank,
            "target_modules": self.provenance.pattern,
            "rank_pattern": {},
            "alpha_pattern": {},
        }
        component = self.provenance.component
        return {
            "format": "pt",
            "lora_adapter_metadata": json.dumps({f"{component}.{k}": v for k, v in lora.items()}, sort_keys=True),
            HEADER_KEY: json.dumps(self.to_dict(), sort_keys=True),
        }

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str]) -> Erasure:
        """Read an erasure.

        Args:
            path: The folder that `save_pretrained` wrote, or its weight file.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no safetensors file, is damaged, or holds no erasure.
        """
        path = Path(path)
        file = path / WEIGHTS_NAME if path.is_dir() else path
        if not file.is_file():
            raise FileNotFoundError(f"No erasure at {path}: there is no {file.name}.")
        header, weights = read_safetensors(file)
        if HEADER_KEY not in header:
            raise ValueError(
                f"{file} holds no erasure: its header has no {HEADER_KEY!r}. A LoRA of another kind loads with "
                "pipe.load_lora_weights(...)."
            )
        return cls._from_dict(json.loads(header[HEADER_KEY]), weights)

    @classmethod
    def _from_dict(cls, values: dict[str, Any], weights: dict[str, Tensor]) -> Erasure:
        known = {field.name for field in fields(Provenance)}
        provenance = {key: value for key, value in values["provenance"].items() if key in known}
        provenance["concepts"] = tuple(provenance["concepts"])
        for name in ("history", "parts"):
            provenance[name] = tuple((first, second) for first, second in provenance.get(name, ()))
        return cls(values["name"], weights, ESDConfig.from_dict(values["config"]), Provenance(**provenance))

    def apply(self, pipe: DiffusionPipeline, scale: float = 1.0, name: str | None = None) -> None:
        """Load onto a pipeline and activate, beside whatever is active.

        Args:
            pipe: A pipeline of the family it was trained on.
            scale: 1 is the erasure as trained, 0 the base.
            name: Name of the adapter; `None` means `self.name`.

        Raises:
            ValueError: If the name is in use or cannot be one, or if the weights do not fit the pipeline.
        """
        name = self.name if name is None else name
        denoiser = self._denoiser(pipe)
        adapter.check_denoiser(denoiser)
        adapter.check_name(denoiser, name)
        adapter.load(denoiser, self.provenance.component, dict(self.weights), name, scale)

    def remove(self, pipe: DiffusionPipeline, name: str | None = None) -> None:
        """Take off a pipeline; other adapters stay as they are.

        Args:
            pipe: The pipeline.
            name: Name of the adapter; `None` means `self.name`.

        Raises:
            ValueError: If no such adapter is on the pipeline.
        """
        adapter.remove(self._denoiser(pipe), self.name if name is None else name)

    def _denoiser(self, pipe: Any) -> Any:
        component = self.provenance.component
        if component not in pipe.components:
            raise ValueError(
                f"The erasure is for a pipeline with a {component}; a {type(pipe).__name__} has "
                f"{', '.join(pipe.components)}."
            )
        return unwrap_module(pipe.components[component])


def read_safetensors(file: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Header and tensors of a file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no safetensors file, or damaged.
    """
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {file}.")
    if file.suffix != ".safetensors":
        raise ValueError(f"{file} is no safetensors file; only those are read, because others can run code.")
    try:
        with safe_open(file, framework="pt") as opened:
            return opened.metadata() or {}, {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged or no safetensors file ({error}); fetch it again.") from error


def write_safetensors(file: Path, weights: Mapping[str, Tensor], header: dict[str, str]) -> Path:
    """Write a file whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        save_file({key: value.contiguous() for key, value in weights.items()}, temporary, metadata=header)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    return file
