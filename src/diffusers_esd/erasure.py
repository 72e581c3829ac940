"""`Erasure`: the trained, small, portable result."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from diffusers import DiffusionPipeline
from PIL.Image import Image
from torch import Tensor

from . import adapter, hub, publication
from .arguments import check_scale
from .base_model import warn_of_other_base
from .check import Check, check
from .config import ESDConfig
from .denoiser import check_denoiser, check_name, find_denoiser
from .families import Family
from .files import WEIGHTS_NAME, digest, read_png
from .names import check_adapter_name
from .notebook import as_html, as_text
from .portable import from_portable
from .provenance import Provenance
from .report import Report
from .storage import PICTURE_NAME, read_file, read_report, write_folder
from .summary import summarise


@dataclass(frozen=True, eq=False)
class Erasure:
    """An erasure: the weights of an adapter, and where they come from.

    It can be copied, pickled and sent to another process. A notebook shows it as a table with its picture.

    Attributes:
        name: Default name of the adapter on a pipeline.
        weights: Tensors by portable key, float32, on the CPU.
        config: The configuration it was trained with; `None` for a merged or imported one.
        provenance: Where it comes from and how its training went.
        picture: The image (PIL) that `check` drew, or `None`.
        report: What an evaluation found, or `None`; see `with_report`.
    """

    name: str
    weights: Mapping[str, Tensor]
    config: ESDConfig | None
    provenance: Provenance
    picture: Image | None = None
    report: Report | None = None

    def __post_init__(self) -> None:
        check_adapter_name(self.name)
        object.__setattr__(self, "weights", MappingProxyType(dict(self.weights)))

    def __reduce__(self) -> tuple[Any, ...]:
        # A MappingProxyType can be neither pickled nor copied.
        return type(self), (self.name, dict(self.weights), self.config, self.provenance, self.picture, self.report)

    def __repr__(self) -> str:
        return as_text(self.name, self.config, self.provenance, self.rank)

    def _repr_html_(self) -> str:
        return as_html(self.name, summarise(self.config, self.provenance, self.rank), self.picture)

    @property
    def rank(self) -> int:
        """Rank in every layer."""
        return max((len(weight) for key, weight in self.weights.items() if key.endswith(".lora_A.weight")), default=0)

    def layers(self) -> dict[str, tuple[Tensor, Tensor]]:
        """A and B of each layer by module name; the product of both, as matrices, is what is added to the weight."""
        return from_portable(self.weights, self.provenance.component)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the weights and the picture, as JSON types."""
        config = None if self.config is None else self.config.to_dict()
        return {"name": self.name, "rank": self.rank, "config": config, "provenance": self.provenance.to_dict()}

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write the weights, `erasure.json`, and the picture and the report if there are any.

        A new folder appears whole or not at all. In a folder that exists, each file is replaced whole or not at all.

        Args:
            folder: A new or empty folder, or one that contains an erasure, which is replaced.

        Returns:
            The folder.

        Raises:
            FileExistsError: If the folder contains something else, or a finished erasure and this one was interrupted.
        """
        folder = Path(folder)
        write_folder(folder, self.weights, self.to_dict(), self.provenance, self.picture, self.report)
        return folder

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        pictures: Mapping[str, Image] | None = None,
        explicit_pictures: bool = False,
        commit_message: str | None = None,
    ) -> str:
        """Publish on the Hugging Face Hub: weights, `erasure.json`, a card, and for U-Nets a file for other tools.

        The report is published with them. `self.picture` is not; give it in `pictures` for that.

        Args:
            repo_id: `user/name`; created if it does not exist. Of a card that exists only our part is replaced.
            private: Whether a new repository is private; `None` means the account's default.
            token: Of the account; `None` means the one that `hf auth login` stored.
            pictures: Images (PIL) by prompt, such as those of `preview`, for the card's gallery.
            explicit_pictures: Whether they are published even if a concept or a prompt is explicit, such as nudity.
            commit_message: Of the commit; `None` names the concepts.

        Returns:
            The address of the commit.

        Raises:
            ValueError: If `repo_id` cannot be the id of a repository.
            ConnectionError: If the Hub cannot be reached.

        Warns:
            UserWarning: If pictures are left out.
        """
        return publication.publish(
            replace(self, picture=None),
            repo_id,
            private=private,
            token=token,
            pictures=pictures or {},
            explicit_pictures=explicit_pictures,
            commit_message=commit_message,
        )

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike[str], *, token: str | bool | None = None, revision: str | None = None
    ) -> Erasure:
        """Read an erasure.

        Args:
            path: The folder that `save_pretrained` wrote, its weight file, or the id of a repository, `user/name` or
                `user/name@revision`.
            token: For a private repository; `None` means the one that `hf auth login` stored.
            revision: Branch, tag or commit of the repository.

        Raises:
            FileNotFoundError: If the file, the folder or the repository does not exist or is not an erasure's.
            ValueError: If the file is damaged or not an erasure, or a revision is given twice or for a local path.

        Warns:
            UserWarning: If the picture or the report is damaged.
        """
        file = hub.locate(path, WEIGHTS_NAME, token=token, revision=revision)
        folder = Path(path)
        return cls(*read_file(file), read_png(folder / PICTURE_NAME), read_report(folder))

    def with_report(self, report: Report) -> Erasure:
        """This erasure with the report of an evaluation, which is saved and published with it.

        Raises:
            ValueError: If the report is not about these weights.
        """
        if not report.is_about(digest(self.weights)):
            raise ValueError(
                f"The report is about {', '.join(report.methods)}, none of which has the weights of {self.name}. "
                "Evaluate this erasure."
            )
        return replace(self, report=report)

    def check(
        self,
        pipe: DiffusionPipeline,
        prompts: str | Sequence[str] | None = None,
        *,
        seeds: int | Sequence[int] = (0, 1),
        num_inference_steps: int = 25,
        family: Family | None = None,
        **options: Any,
    ) -> Check:
        """A first look: images beside those of the base model, and two alignments. The image becomes `self.picture`.

        The pipeline is left as it was found. Its other active adapters are active in both models.

        Args:
            pipe: A pipeline of the family it was trained on, with or without the erasure on it.
            prompts: Prompts of the images; `None` means the concepts, and two prompts that should look the same: of the
                list in `preserve`, or the nearest words of the text encoder's vocabulary.
            seeds: Seeds of the images, and of the trajectories on which alignments are measured.
            num_inference_steps: Denoising steps of both.
            family: The family of the pipeline, if the package does not know this kind of pipeline.
            options: Further arguments of the pipeline's call, such as `guidance_scale`.

        Returns:
            The image and the alignments.

        Raises:
            TypeError: If a seed or a prompt has the wrong type, or the kind of pipeline is unknown.
            ValueError: If there is no seed, the erasure does not fit the pipeline, or it cannot be trained.
        """
        result = check(
            pipe, self.weights, self.name, self.config, self.provenance,
            prompts=prompts, seeds=seeds, num_inference_steps=num_inference_steps, family=family, **options,
        )  # fmt: skip
        object.__setattr__(self, "picture", result.picture)
        return result

    def apply(self, pipe: DiffusionPipeline, scale: float = 1.0, name: str | None = None) -> None:
        """Load onto a pipeline and activate, beside the adapters that are active.

        Args:
            pipe: A pipeline of the family it was trained on.
            scale: 1 is the erasure as trained, 0 the base model.
            name: Name of the adapter; `None` means `self.name`.

        Raises:
            TypeError: If the scale is not a number.
            ValueError: If the scale is not finite, the name cannot be used, or the weights do not fit the pipeline.

        Warns:
            UserWarning: If the scale is negative, or the erasure was trained on other base weights than the pipeline's.
        """
        scale = check_scale("scale", scale)
        name = self.name if name is None else name
        _, denoiser = find_denoiser(pipe, self.provenance.component)
        check_denoiser(denoiser)
        check_name(denoiser, name)
        adapter.load(denoiser, self.provenance.component, dict(self.weights), name, scale)
        warn_of_other_base(self.name, self.provenance, pipe, denoiser)

    def remove(self, pipe: DiffusionPipeline, name: str | None = None) -> None:
        """Remove from a pipeline; other adapters stay as they are.

        Args:
            pipe: The pipeline.
            name: Name of the adapter; `None` means `self.name`.

        Raises:
            ValueError: If no such adapter is on the pipeline.
        """
        adapter.remove(find_denoiser(pipe, self.provenance.component)[1], self.name if name is None else name)
