"""`RunConfig`: how a training runs. It is not stored in an erasure's file: only the number of processes that train
together (`data_parallel`) changes what is learned, and the provenance has it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .arguments import check_flag, check_prompts, integer_from

LATEST = "latest"
"""The value of `resume` that means the newest checkpoint."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How a training runs.

    Attributes:
        gradient_checkpointing: Compute the activations again in the backward pass instead of storing them: less memory,
            more time.
        offload: Keep the text encoders and the autoencoder on the CPU while the denoiser is evaluated. A callback
            cannot generate images then; samples are drawn.
        free_text_encoders: Drop the text encoders from the pipeline when all prompts are encoded, so that they take no
            memory anywhere. Afterwards the pipeline does not take prompts until you load them again. `offload` moves
            them to the CPU instead, and back at the end.
        capture: On a GPU, run the iterations as CUDA graphs: two to three times faster at batch 1, with about half more
            memory. Where it is not possible, the provenance says why.
        output_dir: Folder for what a training writes, in `output_dir/<adapter name>`: checkpoints, `checkpoint-N` after
            N iterations; `history.jsonl`, a line for each iteration; images and logs. `None` writes nothing.
        checkpoint_every: Iterations between two checkpoints; `None` means 100. One more is written before the first
            iteration, at the end, after Ctrl-C or SIGTERM, and when a callback fails or returns "stop".
        keep_checkpoints: Number of checkpoints to keep, the newest; older ones are deleted.
        resume: The checkpoint to go on from: a checkpoint's folder, or `"latest"`, the newest in
            `output_dir/<adapter name>`; if there is none, the training starts from the beginning. `None` starts from
            the beginning, and refuses an `output_dir` that has checkpoints of this name.
        data_parallel: Train together with the other processes that a launcher has started, such as
            `accelerate launch`. `False` trains alone in each process. Without a launcher, it does nothing.
        sample_every: Iterations between two images of what the erasure does, `samples/iteration-N.png`; one more is
            drawn at the end. `None` draws none.
        sample_prompts: The prompts of these images; an empty list means the concepts, and `erase_from` if there is one.
        report_to: Where loss, alignments and images are also logged: `"tensorboard"` (`pip install
            "diffusers-esd[tracking]"`), `"wandb"`, or another tracker that accelerate knows. `None` logs nothing.
    """

    gradient_checkpointing: bool = False
    offload: bool = False
    free_text_encoders: bool = False
    capture: bool = True
    output_dir: str | Path | None = None
    checkpoint_every: int | None = None
    keep_checkpoints: int = 1
    resume: str | Path | None = None
    data_parallel: bool = True
    sample_every: int | None = None
    sample_prompts: tuple[str, ...] = ()
    report_to: str | None = None

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            TypeError: If a value has the wrong type.
            ValueError: If a value is out of range, `output_dir` is missing, or samples need the text encoders.
        """
        for name in ("gradient_checkpointing", "offload", "free_text_encoders", "capture", "data_parallel"):
            check_flag(name, getattr(self, name))
        for name in ("output_dir", "resume"):
            _check_path(name, getattr(self, name))
        integer_from(1)("keep_checkpoints", self.keep_checkpoints)
        for name in ("checkpoint_every", "sample_every"):
            if getattr(self, name) is not None:
                integer_from(1)(name, getattr(self, name))
        object.__setattr__(self, "sample_prompts", check_prompts("sample_prompts", self.sample_prompts))
        if self.report_to is not None and (not isinstance(self.report_to, str) or not self.report_to.strip()):
            raise TypeError(f"`report_to` must be the name of a tracker, or None; got {self.report_to!r}.")
        if self.sample_prompts and self.sample_every is None:
            raise ValueError("`sample_prompts` needs `sample_every`, the iterations between two images; got None.")
        if self.free_text_encoders and self.sample_every is not None:
            raise ValueError(
                f"`sample_every`={self.sample_every} draws with the text encoders, which `free_text_encoders` drops. "
                "Leave one of them out; `offload`=True brings the text encoders back for each drawing."
            )
        if self.output_dir is None:
            self._check_no_output()

    def _check_no_output(self) -> None:
        """Refuse what needs a folder."""
        for name, needs, contents in (
            ("checkpoint_every", self.checkpoint_every, "checkpoints"),
            ("resume", self.resume == LATEST, "checkpoints"),
            ("sample_every", self.sample_every, "images"),
            ("report_to", self.report_to, "logs"),
        ):
            if needs:
                raise ValueError(
                    f"`{name}`={getattr(self, name)!r} needs `output_dir`, the folder of the {contents}; "
                    "got output_dir=None."
                )

    def folder(self, name: str) -> Path | None:
        """Where the training of an adapter writes its checkpoints and all else, if it writes."""
        return None if self.output_dir is None else Path(self.output_dir, name).resolve()


def _check_path(name: str, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"`{name}` must be a path, got {value!r} of type {type(value).__name__}.")
    if not str(value).strip():
        raise ValueError(f"`{name}` is empty: got {value!r}; give a path, or None.")
