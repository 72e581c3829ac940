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
from torch import Tensor

from . import adapter, hub
from .checks import check_scale
from .config import ESDConfig
from .denoiser import check_denoiser, check_name, find_denoiser
from .files import HEADER_KEY, WEIGHTS_NAME, read_safetensors, write_safetensors
from .kohya import to_kohya
from .names import check_adapter_name
from .portable import check_portable, from_portable
from .provenance import Provenance, read_record

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
        return from_portable(self.weights, self.provenance.component)

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
            return hub.publish(folder, repo_id, private=private, token=token, message=message)

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
            check_portable(weights, provenance.component, record.get("rank", erasure.rank))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"{file} is damaged or of a newer version ({error}); fetch it again.") from error
        return erasure

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
        _, denoiser = find_denoiser(pipe, self.provenance.component)
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
        adapter.remove(find_denoiser(pipe, self.provenance.component)[1], self.name if name is None else name)


def check_folder(folder: Path) -> None:
    """Refuse a folder in which an erasure would be among other things.

    Raises:
        FileExistsError: If it holds something that is not an erasure.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / JSON_NAME).is_file()):
        raise FileExistsError(f"{folder} holds something that is not an erasure; give a new or an empty folder.")


def _shortened(text: str, width: int = 160) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."
