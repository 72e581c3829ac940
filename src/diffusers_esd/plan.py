"""`Plan`: what an erasure will train on and cost, known before anything is spent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .config import ESDConfig
from .limits import Limits

_MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `ESDTrainer.erase(..., dry_run=True)` returns.

    Attributes:
        concepts: What is erased.
        name: Name of the adapter.
        layers: The layers that the adapter may go to. With a null space those among them that cannot tell the concept
            from what is preserved are left out later, when that was measured.
        left_out: Layers of the group that get no adapter, by reason.
        preserved: The prompts that must stay.
        synonyms: Words that are not preserved because they are too near to the concept.
        of_moments: How many of the preserved prompts the moments of the null space are taken of, where layers see more
            than text.
        of_loss: How many of them the preserve loss takes in turn.
        evaluations: Samples that the denoiser evaluates, about: `"no_grad"` and `"grad"`.
        memory: Bytes by what they are for, activations apart.
    """

    concepts: tuple[str, ...]
    name: str
    layers: tuple[str, ...]
    left_out: Mapping[str, tuple[str, ...]]
    preserved: tuple[str, ...]
    synonyms: tuple[str, ...]
    of_moments: int
    of_loss: int
    evaluations: Mapping[str, int]
    memory: Mapping[str, int]

    def __str__(self) -> str:
        """The plan as a few lines."""
        lines = [
            f"{self.name}: erases {', '.join(map(repr, self.concepts))}",
            f"layers: {len(self.layers)}",
            *(f"  left out: {len(names)} ({reason})" for reason, names in self.left_out.items()),
            f"preserved prompts: {len(self.preserved)}; the moments take {self.of_moments}, the loss {self.of_loss}",
        ]
        if self.synonyms:
            lines.append(f"  not preserved, too near to the concept: {', '.join(self.synonyms)}")
        lines.append(
            f"evaluations: {self.evaluations['no_grad']} without gradient, {self.evaluations['grad']} with"
        )
        lines += [f"memory, {what}: {size / _MIB:.1f} MiB" for what, size in self.memory.items()]
        return "\n".join(lines)


def expected_evaluations(
    config: ESDConfig, limits: Limits, *, concepts: int, of_loss: int, of_concept: int, sees_pictures: bool
) -> dict[str, int]:
    """Samples that a training of all its iterations evaluates, about.

    Args:
        config: The configuration.
        limits: The limits.
        concepts: Prompts that the student is trained on.
        of_loss: Prompts of the preserve loss.
        of_concept: Trajectories of the concept that the null space looks at.
        sees_pictures: Whether it looks at layers that see more than text.
    """
    moments = (limits.trajectories + limits.held_out + of_concept) * limits.steps if sees_pictures else 0
    teacher = 2 if config.erase_from is None else 3
    no_grad = moments + teacher * config.states + _on_the_way(config, concepts, None)
    grad = config.states
    if of_loss:
        no_grad += 2 * config.states + _on_the_way(config, of_loss, 64)
        grad += config.states
    return {"no_grad": round(no_grad), "grad": grad}


def _on_the_way(config: ESDConfig, prompts: int, at_a_time: int | None) -> float:
    """Evaluations by which trajectories reach states that no loss is taken at."""
    steps = config.num_inference_steps
    if config.trajectory == "fresh":
        return config.states * (steps - 1)
    size = max(4 * config.batch_size, min(prompts, at_a_time or prompts))
    size = prompts * math.ceil(size / prompts) if prompts <= size else size
    stride = max(1, min(math.ceil(steps / 5), math.ceil(prompts * steps / config.states)))
    start = sum(min(5, math.ceil((i + 0.5) * steps / size / stride)) for i in range(size))
    laps = config.states * stride / steps
    return 2 * (start + laps * (1 - 1 / stride))
