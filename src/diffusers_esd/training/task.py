"""`Task`: what a training is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..config import ESDConfig
from ..families import Family
from ..groups import Selection
from ..limits import Limits
from ..low_rank import Layers
from ..run import RunConfig
from .encoding import Encoded
from .processes import Processes
from .prompts import Prompts


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to train.

    Attributes:
        family: The family of the pipeline.
        config: What is learned.
        run: How it runs.
        limits: The fixed numbers.
        name: Name of the adapter.
        selection: The layers of the group.
        prompts: The prompts; until they are chosen, the concepts alone.
        encoded: Those of them that are encoded already; encodes the others.
        beside: Names of the adapters that are switched off.
        start: A and B of each layer to start from. A stays fixed then, and there is no null space. `None` starts with
            B = 0.
        origin: Fields of the provenance that say what `start` is; empty without one.
        processes: Those that train it.
    """

    family: Family
    config: ESDConfig
    run: RunConfig
    limits: Limits
    name: str
    selection: Selection
    prompts: Prompts
    encoded: Encoded
    beside: tuple[str, ...] = ()
    start: Layers | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)
    processes: Processes = field(default_factory=Processes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one latent, (C, H, W)."""
        return self.family.latent_shape(self.config.size)

    @property
    def is_confined(self) -> bool:
        """Whether a null space confines the adapter: A is computed and fixed."""
        return self.start is None and self.config.null_space and bool(self.prompts.preserved.prompts)
