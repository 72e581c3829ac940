"""`RunConfig`: how a training runs. Nothing here changes what is learned, so it is not stored in an erasure's file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .arguments import check_flag, integer_from

LATEST = "latest"
"""The value of `resume` that means the newest checkpoint."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How a training runs.

    Attributes:
        gradient_checkpointing: Compute the activations again in the backward pass instead of storing them: less memory,
            more time.
        offload: Keep the text encoders and the autoencoder on the CPU while the denoiser is evaluated. A callback
            cannot generate images then.
        capture: On a GPU, run the iterations as CUDA graphs: two to three times faster at batch 1, with about half more
            memory. Where it is not possible, the provenance says why.
        output_dir: Folder for checkpoints, which are `output_dir/<adapter name>/checkpoint-N` after N iterations.
            `None` writes none.
        checkpoint_every: Iterations between two checkpoints; `None` means 100. One more is written before the first
            iteration, at the end, after Ctrl-C or SIGTERM, and when a callback fails or returns "stop".
        keep_checkpoints: Number of checkpoints to keep, the newest; older ones are deleted.
        resume: The checkpoint to go on from: a checkpoint's folder, or `"latest"`, the newest in
            `output_dir/<adapter name>`; if there is none, the training starts from the beginning. `None` starts from
            the beginning, and refuses an `output_dir` that has checkpoints of this name.
        data_parallel: Train together with the other processes that a launcher has started, such as
            `accelerate launch`. `False` trains alone in each process. Without a launcher, it does nothing.
    """

    gradient_checkpointing: bool = False
    offload: bool = False
    capture: bool = True
    output_dir: str | Path | None = None
    checkpoint_every: int | None = None
    keep_checkpoints: int = 1
    resume: str | Path | None = None
    data_parallel: bool = True

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            TypeError: If a value has the wrong type.
            ValueError: If a value is out of range, or `output_dir` is missing.
        """
        for name in ("gradient_checkpointing", "offload", "capture", "data_parallel"):
            check_flag(name, getattr(self, name))
        for name in ("output_dir", "resume"):
            _check_path(name, getattr(self, name))
        integer_from(1)("keep_checkpoints", self.keep_checkpoints)
        if self.checkpoint_every is not None:
            integer_from(1)("checkpoint_every", self.checkpoint_every)
        if self.output_dir is None:
            for name, needs in (("checkpoint_every", self.checkpoint_every), ("resume", self.resume == LATEST)):
                if needs:
                    raise ValueError(
                        f"`{name}`={getattr(self, name)!r} needs `output_dir`, the folder of the checkpoints; "
                        "got output_dir=None."
                    )

    def checkpoints(self, name: str) -> Path | None:
        """The folder for the checkpoints of an adapter, if they are written."""
        return None if self.output_dir is None else Path(self.output_dir, name).resolve()


def _check_path(name: str, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"`{name}` must be a path, got {value!r} of type {type(value).__name__}.")
    if not str(value).strip():
        raise ValueError(f"`{name}` is empty: got {value!r}; give a path, or None.")
