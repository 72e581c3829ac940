"""`RunConfig`: how a training runs. Nothing here changes what is learned, so it is not stored in an erasure's file."""

from __future__ import annotations

from dataclasses import dataclass, fields

from .arguments import check_flag


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How a training runs.

    Attributes:
        gradient_checkpointing: Compute the activations again in the backward pass instead of storing them: less memory,
            more time.
        offload: Keep the text encoders and the autoencoder on the CPU while the denoiser is evaluated. A callback
            cannot generate images then.
        capture: On a GPU, run the iterations as CUDA graphs: several times faster at batch 1, with up to half more
            memory. Where it is not possible, the provenance says why.
    """

    gradient_checkpointing: bool = False
    offload: bool = False
    capture: bool = True

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            TypeError: If a value has the wrong type.
        """
        for field in fields(self):
            check_flag(field.name, getattr(self, field.name))
