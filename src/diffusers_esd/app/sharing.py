"""What a visitor does with their stack in the end: `Merged` saves, `Exported` writes, `Published` uploads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..erasure import Erasure
from ..exchange import check_export, export
from ..files import WEIGHTS_NAME
from ..hub import check_repo_id
from ..stacks.merge import merge
from ..tools import TITLES, Tool, check_tool
from .code import call
from .folder import Shelf
from .job import Job


@dataclass(frozen=True)
class Merged:
    """The stack as one erasure, which is saved.

    Attributes:
        shelf: The files of the visitor.
        scales: Scales by name.
        name: Name of the erasure.
    """

    shelf: Shelf
    scales: Mapping[str, float]
    name: str

    title = "saving the stack as one erasure"

    @property
    def sources(self) -> dict[str, float]:
        """Erasures with scales."""
        return self.shelf.sources(self.scales)

    @property
    def folder(self) -> Path:
        """The folder of the erasure."""
        return self.shelf.place("erasures", self.name)

    @property
    def code(self) -> str:
        """The call as code."""
        merged = call("merge", self.sources, name=self.name)
        return f"from diffusers_esd import merge\n\n{merged}.{call('save_pretrained', self.folder)}"

    def run(self, pipe: Any, job: Job) -> None:
        """Merge and save. In the stack, the new erasure has the scale 0: its parts are there."""
        merge(self.sources, name=self.name).save_pretrained(self.folder)
        self.shelf.keep({**self.scales, self.name: 0.0})
        text = f"**{self.name}** is saved. It is in the stack with scale 0, because its parts are there."
        job.show(now=f"saved as {self.name}", text=text, file=self.folder / WEIGHTS_NAME)


@dataclass(frozen=True)
class Exported:
    """The stack as a file for another tool.

    Attributes:
        shelf: The files of the visitor.
        scales: Scales by name.
        name: Name of the file, without its ending.
        tool: The tool.

    Raises:
        ValueError: If the tool is unknown.
    """

    shelf: Shelf
    scales: Mapping[str, float]
    name: str
    tool: Tool

    title = "exporting the stack"

    def __post_init__(self) -> None:
        check_tool(self.tool)
        check_export(self.file)

    @property
    def sources(self) -> dict[str, float]:
        """Erasures with scales."""
        return self.shelf.sources(self.scales)

    @property
    def file(self) -> Path:
        """The file."""
        folder = self.shelf.place("exports", self.name)
        return folder.with_name(f"{folder.name}.{self.tool}.safetensors")

    @property
    def code(self) -> str:
        """The call as code."""
        return f"from diffusers_esd import export\n\n{call('export', self.sources, self.file, tool=self.tool)}"

    def run(self, pipe: Any, job: Job) -> None:
        """Write the file."""
        file = export(self.sources, self.file, tool=self.tool)
        job.show(now=f"written for {TITLES[self.tool]}: {file.name}", file=file)


@dataclass(frozen=True)
class Published:
    """The stack as one erasure on the Hugging Face Hub.

    Attributes:
        shelf: The files of the visitor.
        scales: Scales by name.
        repo_id: The repository, `user/name`.
        private: Whether a new repository is private.
        token: Of the visitor's account; `None` means the one that `hf auth login` stored. It is not shown or kept.

    Raises:
        ValueError: If this cannot be the id of a repository.
    """

    shelf: Shelf
    scales: Mapping[str, float]
    repo_id: str
    private: bool = True
    token: str | None = field(default=None, repr=False)

    title = "publishing the stack"

    def __post_init__(self) -> None:
        check_repo_id(self.repo_id)

    @property
    def sources(self) -> dict[str, float]:
        """Erasures with scales."""
        return self.shelf.sources(self.scales)

    @property
    def _alone(self) -> str | None:
        """The folder, if the stack is one erasure as it was trained; then its report and configuration go along."""
        (folder, scale), *others = self.sources.items()
        return folder if scale == 1 and not others else None

    @property
    def code(self) -> str:
        """The call as code, without the token."""
        push = call("push_to_hub", self.repo_id, private=self.private)
        if self._alone is not None:
            return f"from diffusers_esd import Erasure\n\n{call('Erasure.from_pretrained', self._alone)}.{push}"
        return f"from diffusers_esd import merge\n\n{call('merge', self.sources)}.{push}"

    def run(self, pipe: Any, job: Job) -> None:
        """Upload. Pictures are not published from here."""
        job.show(now=f"uploads to {self.repo_id}")
        erasure = merge(self.sources) if self._alone is None else Erasure.from_pretrained(self._alone)
        address = erasure.push_to_hub(self.repo_id, private=self.private, token=self.token)
        job.show(now="published", text=f"[{self.repo_id}]({address})")
