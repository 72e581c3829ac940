"""`Baked`: erasures in the weights, as a pipeline is published from which no adapter can be detached."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from diffusers import DiffusionPipeline

from ...erasure import Erasure
from ...stacks.bake import bake
from ..methods import Draw, Erased, drawer


class Baked(Erased):
    """Erasures, added to the weights of a copy of the denoiser, which exists while it draws.

    Adapters that are active on the pipeline are not part of it.

    Args:
        name: Name of the column.
        parts: Erasures and their scales.
    """

    def __init__(self, name: str, parts: Sequence[tuple[Erasure, float]]) -> None:
        super().__init__(name, parts)
        self._baked: DiffusionPipeline | None = None

    def record(self, pipe: DiffusionPipeline) -> dict[str, Any]:
        """The base weights, and name, scale and digest of each erasure."""
        return {**super().record(pipe), "adapters": {}, "baked": True}

    @contextmanager
    def drawing(self, pipe: DiffusionPipeline, options: Mapping[str, Any]) -> Iterator[Draw]:
        """Draws with the copy.

        Raises:
            ValueError: If an erasure does not fit the pipeline, or its denoiser has hooks.
        """
        self._baked = bake(pipe, dict(self._parts))
        try:
            yield drawer(self._baked, options)
        finally:
            self._baked = None

    def pipeline(self, pipe: DiffusionPipeline) -> DiffusionPipeline:
        """The pipeline with the copy; outside the context, the base model's."""
        return pipe if self._baked is None else self._baked
