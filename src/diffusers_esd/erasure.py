"""`Erasure`: the trained, small, portable result, and the two files it is saved as.

`pytorch_lora_weights.safetensors` is the one that plain `pipe.load_lora_weights` reads in every diffusers since 0.30:
PEFT's keys, the scale folded into B, one rank, minimal metadata. What the erasure was trained on stands in a header
key of the same file, and for readers in `erasure.json` beside it.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

from diffusers import DiffusionPipeline
from diffusers.utils.torch_utils import unwrap_module
from torch import Tensor

from . import adapter, hub
from .config import ESDConfig, check_adapter_name
from .denoiser import check_denoiser, check_name
from .files import HEADER_KEY, WEIGHTS_NAME, read_safetensors, write_safetensors
from .kohya import to_kohya
from .provenance import Provenance, read_record
from .scales import check_scale

__all__ = ["JSON_NAME", "Erasure", "Provenance", "check_folder", "check_scale"]

JSON_NAME = "erasure.json"


@dataclass(frozen=True, eq=False)
class Erasure:
    """An erasure: the weights of an adapter, and where they come from.

    It can be copied, pickled and sent to another process.

    Attributes:
        name: Default name of the adapter on a pipeline.
        weights: Tensors by portable key, float32, on the CPU.
        config: The configuration it was trained with; `None` for a merged or imported one.
        provenance: Where it comes from and what its training came to.
    """

    name: str
    weights: Mapping[str, Tensor]
    config: ESDConfig | None
    provenance: Provenance

    def __post_init__(self) -> None:
        check_adapter_name(self.name)
        object.__setattr__(self, "weights", MappingProxyType(dict(self.weights)))

    def __reduce__(self) -> tuple[Any, ...]:
        # A MappingProxyType can be neither pickled nor copied.
        return type(self), (self.name, dict(self.weights), self.config, self.provenance)

    def __repr__(self) -> str:
        origin, group = self.provenance.origin, f" {self.config.group!r}" if self.config is not None else ""
        alignment = "unknown" if self.provenance.alignment is None else f"{self.provenance.alignment:.2f}"
        shown = {
            "name": repr(self.name),
            "concepts": ", ".join(map(repr, self.provenance.concepts)),
            "base": repr(self.provenance.base_model),
            "weights": f"{origin}{group}, {self.provenance.layers} layers, rank {self.rank}, alignment {alignment}",
        }
        return "Erasure(\n" + "".join(f"  {key}: {_shortened(text)}\n" for key, text in shown.items()) + ")"

    @property
    def rank(self) -> int:
        """Rank in every layer."""
        return max((len(weight) for key, weight in self.weights.items() if key.endswith(".lora_A.weight")), default=0)

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
        config = None if self.config is None else self.config.to_dict()
        return {"name": self.name, "rank": self.rank, "config": config, "provenance": self.provenance.to_dict()}

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
        check_folder(folder)
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{JSON_NAME}.{os.getpid()}.tmp"
        try:
            temporary.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
            write_safetensors(folder / WEIGHTS_NAME, self.weights, self._header())
            temporary.replace(folder / JSON_NAME)
        finally:
            temporary.unlink(missing_ok=True)
            if is_new and not any(folder.iterdir()):
                folder.rmdir()
        return folder

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        pictures: Mapping[str, Any] | None = None,
        explicit_pictures: bool = False,
        evaluation: str | None = None,
        commit_message: str | None = None,
    ) -> str:
        """Publish on the Hugging Face Hub: weights, `erasure.json`, a card, and for U-Nets a file for other tools.

        Args:
            repo_id: `user/name`; it is created if need be. A card that is there is updated: only our part and our
                metadata change.
            private: Whether a new repository is private; `None` means the account's default.
            token: Of the account; `None` means the one that `hf auth login` stored.
            pictures: Pictures (PIL) by prompt, such as those of `preview`, for the card's gallery.
            explicit_pictures: Show them also where the concept is nudity, violence and the like.
            evaluation: A table in Markdown of what is gone and what stayed, for the card.
            commit_message: Of the commit.

        Returns:
            The commit's address.

        Raises:
            ValueError: If `repo_id` cannot be the id of a repository.
        """
        if not hub.is_repo_id(repo_id):
            raise ValueError(f"`repo_id` must be 'user/name', got {repo_id!r}.")
        shown = dict(pictures or {})
        if shown and hub.is_explicit([*self.provenance.concepts, *shown]) and not explicit_pictures:
            warnings.warn(
                f"The pictures are left out, because the concept is {', '.join(self.provenance.concepts)}; "
                "explicit_pictures=True shows them.",
                stacklevel=2,
            )
            shown = {}
        with TemporaryDirectory() as temporary:
            folder = Path(temporary)
            self.save_pretrained(folder)
            kohya = f"{self.name}.kohya.safetensors" if self.provenance.component == "unet" else None
            if kohya is not None:
                write_safetensors(folder / kohya, to_kohya(self.layers()), {"format": "pt"})
            names = {prompt: f"images/{i:02d}.png" for i, prompt in enumerate(shown)}
            for prompt, name in names.items():
                (folder / name).parent.mkdir(exist_ok=True)
                shown[prompt].save(folder / name)
            card = hub.card(self.to_dict(), repo_id, kohya=kohya, pictures=names, evaluation=evaluation)
            (folder / "README.md").write_text(card, encoding="utf-8")
            message = commit_message or f"Erasure of {', '.join(self.provenance.concepts)}"
            return hub.upload(folder, repo_id, private=private, token=token, message=message)

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
    def from_pretrained(
        cls, path: str | os.PathLike[str], *, token: str | bool | None = None, revision: str | None = None
    ) -> Erasure:
        """Read an erasure.

        Args:
            path: The folder that `save_pretrained` wrote, its weight file, or the id of a repository, `user/name`.
            token: For a private repository; `None` means the one that `hf auth login` stored.
            revision: Branch, tag or commit of the repository.

        Raises:
            FileNotFoundError: If there is no such file or repository.
            ValueError: If it is not a safetensors file, is damaged, or is not an erasure.
        """
        file = hub.locate(path, WEIGHTS_NAME, token=token, revision=revision)
        header, weights = read_safetensors(file)
        if HEADER_KEY not in header:
            raise ValueError(
                f"{file} is not an erasure: {HEADER_KEY!r} is missing in its header. A LoRA of another kind loads with "
                "pipe.load_lora_weights(...)."
            )
        try:
            record = json.loads(header[HEADER_KEY])
            name, config, provenance = read_record(record)
            erasure = cls(name, weights, config, provenance)
            erasure._check(record.get("rank", erasure.rank))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"{file} is damaged or of a newer version ({error}); fetch it again.") from error
        return erasure

    def _check(self, rank: int) -> None:
        """Refuse what `save_pretrained` cannot have written.

        Args:
            rank: What the file says it is.

        Raises:
            ValueError: Saying what is wrong.
        """
        component = self.provenance.component
        if component not in ("unet", "transformer"):
            raise ValueError(f"the component is {component!r}, expected 'unet' or 'transformer'")
        layers = {key.rpartition(".lora_")[0] for key in self.weights}
        expected = {f"{layer}.lora_{side}.weight" for layer in layers for side in "AB"}
        if not layers or set(self.weights) != expected:
            raise ValueError("its keys are not those of an adapter")
        for key, value in self.weights.items():
            if not key.startswith(f"{component}."):
                raise ValueError(f"{key!r} belongs to another component than {component}")
            if value.dim() not in (2, 4) or not value.is_floating_point():
                raise ValueError(f"{key!r} is {value.dtype} of {value.dim()} dimensions")
            if value.shape[0 if ".lora_A." in key else 1] != rank:
                raise ValueError(f"{key!r} has shape {tuple(value.shape)}, and the rank is {rank}")

    def apply(self, pipe: DiffusionPipeline, scale: float = 1.0, name: str | None = None) -> None:
        """Load onto a pipeline and activate, beside whatever is active.

        Args:
            pipe: A pipeline of the family it was trained on.
            scale: 1 is the erasure as trained, 0 the base.
            name: Name of the adapter; `None` means `self.name`.

        Raises:
            TypeError: If the scale is not a number.
            ValueError: If the scale is not finite, the name is in use or cannot be one, or if the weights do not fit
                the pipeline.

        Warns:
            UserWarning: If the scale is negative.
        """
        scale = check_scale("scale", scale)
        name = self.name if name is None else name
        denoiser = self.denoiser(pipe)
        check_denoiser(denoiser)
        check_name(denoiser, name)
        adapter.load(denoiser, self.provenance.component, dict(self.weights), name, scale)

    def remove(self, pipe: DiffusionPipeline, name: str | None = None) -> None:
        """Take off a pipeline; other adapters stay as they are.

        Args:
            pipe: The pipeline.
            name: Name of the adapter; `None` means `self.name`.

        Raises:
            ValueError: If no such adapter is on the pipeline.
        """
        adapter.remove(self.denoiser(pipe), self.name if name is None else name)

    def denoiser(self, pipe: Any) -> Any:
        """The model of a pipeline that the erasure is for.

        Raises:
            ValueError: If the pipeline has none.
        """
        component = self.provenance.component
        if component not in pipe.components:
            raise ValueError(
                f"The erasure is for a pipeline with a {component}; a {type(pipe).__name__} has "
                f"{', '.join(pipe.components)}."
            )
        return unwrap_module(pipe.components[component])


def check_folder(folder: Path) -> None:
    """Refuse a folder in which an erasure would be among other things.

    Raises:
        FileExistsError: If it holds something that is not an erasure.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / JSON_NAME).is_file()):
        raise FileExistsError(f"{folder} holds something that is not an erasure; give a new or an empty folder.")


def _shortened(text: str, width: int = 160) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."
