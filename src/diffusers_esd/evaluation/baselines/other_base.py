"""`OtherBase`: another model in place of the base model, such as one that was trained on filtered images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from diffusers import DiffusionPipeline

from ..methods import Draw, Method, base_record, drawer


class OtherBase(Method):
    """Another pipeline.

    Args:
        source: A Hub id or a folder, such as `"stabilityai/stable-diffusion-2"`, or a pipeline. A source is loaded when
            it is first needed, in the type of the base model's pipeline, and is on its device only while it draws.
        name: Name of the column; `None` means the last part of the source.
        erases: The concepts that it should not draw.
        load: Further arguments of `DiffusionPipeline.from_pretrained`, such as `{"revision": "main"}`.
    """

    def __init__(
        self,
        source: str | DiffusionPipeline,
        *,
        name: str | None = None,
        erases: Sequence[str] = (),
        load: Mapping[str, Any] | None = None,
    ) -> None:
        self._source, self._load = source, dict(load or {})
        self._pipe = None if isinstance(source, str) else source
        own = source if isinstance(source, str) else type(source).__name__
        self.name = own.rstrip("/").rpartition("/")[2] if name is None else name
        self.erases = tuple(erases)

    def record(self, pipe: DiffusionPipeline) -> dict[str, Any]:
        """The other model's weights and adapters, and how it is loaded."""
        return {**base_record(self.pipeline(pipe)), "load": {key: str(value) for key, value in self._load.items()}}

    @contextmanager
    def drawing(self, pipe: DiffusionPipeline, options: Mapping[str, Any]) -> Iterator[Draw]:
        """Draws with the other pipeline."""
        other: Any = self.pipeline(pipe)
        if not isinstance(self._source, str):
            yield drawer(other, options)
            return
        try:
            yield drawer(other.to(pipe.device), options)
        finally:
            other.to("cpu")

    def pipeline(self, pipe: DiffusionPipeline) -> DiffusionPipeline:
        """The other pipeline."""
        if self._pipe is None:
            self._pipe = DiffusionPipeline.from_pretrained(self._source, **{"dtype": pipe.dtype, **self._load})
            self._pipe.set_progress_bar_config(**getattr(pipe, "_progress_bar_config", {}))
        return self._pipe
