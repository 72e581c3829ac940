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
from dataclasses import asdict, dataclass, fields
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
from .files import HEADER_KEY, WEIGHTS_NAME, read_safetensors, to_kohya, write_safetensors

JSON_NAME = "erasure.json"


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
        check_adapter_name(self.name)
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
            ValueError: If `repo_id` is none.
        """
        if not hub.is_repo_id(repo_id):
            raise ValueError(f"{repo_id!r} is no repository's id; give 'user/name'.")
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
            ValueError: If it is no safetensors file, is damaged, or holds no erasure.
        """
        file = Path(path)
        if file.is_dir():
            file = file / WEIGHTS_NAME
        elif not file.exists() and file.suffix != ".safetensors" and hub.is_repo_id(os.fspath(path)):
            file = hub.download(os.fspath(path), WEIGHTS_NAME, token=token, revision=revision)
        if not file.is_file():
            raise FileNotFoundError(f"No erasure at {path}: there is no {file.name}.")
        header, weights = read_safetensors(file)
        if HEADER_KEY not in header:
            raise ValueError(
                f"{file} holds no erasure: its header has no {HEADER_KEY!r}. A LoRA of another kind loads with "
                "pipe.load_lora_weights(...)."
            )
        try:
            erasure = cls._from_dict(json.loads(header[HEADER_KEY]), weights)
            erasure._check()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"{file} is damaged or of a newer version ({error}); fetch it again.") from error
        return erasure

    @classmethod
    def _from_dict(cls, values: dict[str, Any], weights: dict[str, Tensor]) -> Erasure:
        known = {field.name for field in fields(Provenance)}
        provenance = {key: value for key, value in values["provenance"].items() if key in known}
        provenance["concepts"] = tuple(map(str, provenance["concepts"]))
        for name in ("history", "parts"):
            provenance[name] = tuple((first, second) for first, second in provenance.get(name, ()))
        return cls(values["name"], weights, ESDConfig.from_dict(values["config"]), Provenance(**provenance))

    def _check(self) -> None:
        """Refuse what no `save_pretrained` has written.

        Raises:
            ValueError: Saying what is wrong.
        """
        if self.provenance.component not in ("unet", "transformer"):
            raise ValueError(f"the component {self.provenance.component!r} is none")
        sides = {key: key.rpartition(".lora_") for key in self.weights}
        layers = {stem for stem, _, _ in sides.values()}
        expected = {f"{layer}.lora_{side}.weight" for layer in layers for side in "AB"}
        if not layers or set(self.weights) != expected:
            raise ValueError("its keys are not those of an adapter")
        for key, value in self.weights.items():
            if not key.startswith(f"{self.provenance.component}."):
                raise ValueError(f"{key!r} is of another component")
            if value.dim() not in (2, 4) or not value.is_floating_point():
                raise ValueError(f"{key!r} is {value.dtype} of {value.dim()} dimensions")
            if value.shape[0 if ".lora_A." in key else 1] != self.rank:
                raise ValueError(f"{key!r} has shape {tuple(value.shape)}, and the rank is {self.rank}")

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
        FileExistsError: If it holds something that is no erasure.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / JSON_NAME).is_file()):
        raise FileExistsError(f"{folder} holds something that is no erasure; give a new or an empty folder.")
