"""`Plan`: which layers and prompts an erasure will use, and what it will cost, before anything is spent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..config import ESDConfig
from ..denoiser import base_layer
from ..families import Family
from ..groups import MIXED
from ..limits import Limits
from .anchors import Anchors
from .encoding import Encoded
from .inputs import layer_width
from .null_space import portions, sees_text
from .pool import JUMPS, PRESERVED_AT_A_TIME, pool_size, pool_stride
from .prompts import Prompts
from .task import Task

WIDE = "too wide for the null space"
_MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `ESDTrainer.erase(..., dry_run=True)` returns.

    Attributes:
        concepts: What is erased.
        name: Name of the adapter.
        layers: The layers that the adapter may train. With a null space, layers that cannot tell the concept from what
            is preserved are left out later, when their leak has been measured.
        left_out: Layers of the group without an adapter, by reason.
        anchors: The prompt that each concept is erased towards; `""` is the empty prompt.
        preserved: The prompts that must not change.
        synonyms: Words that are not preserved because they are too near to the concept.
        words: Number of words in the preserved prompts, and of words that the tokenizer knows; zeros for a list.
        of_moments: Number of preserved prompts that A is computed from.
        of_loss: Number of preserved prompts in the preserve loss.
        evaluations: Approximate number of samples that the denoiser evaluates: `"no_grad"` and `"grad"`.
        memory: Bytes by purpose, without activations.
    """

    concepts: tuple[str, ...]
    name: str
    layers: tuple[str, ...]
    left_out: Mapping[str, tuple[str, ...]]
    anchors: Mapping[str, str]
    preserved: tuple[str, ...]
    synonyms: tuple[str, ...]
    words: tuple[int, int]
    of_moments: int
    of_loss: int
    evaluations: Mapping[str, int]
    memory: Mapping[str, int]

    def __str__(self) -> str:
        """The plan in a few lines."""
        lines = [
            f"{self.name}: erases {', '.join(map(repr, self.concepts))}",
            *(f"  {concept!r} towards {anchor!r}" for concept, anchor in self.anchors.items() if anchor),
            f"layers: {len(self.layers)}",
            *(f"  left out: {len(names)} ({reason})" for reason, names in self.left_out.items()),
            f"preserved prompts: {len(self.preserved)}{_of_words(*self.words)}; the moments take {self.of_moments}, "
            f"the loss {self.of_loss}",
        ]
        if self.synonyms:
            lines.append(f"  not preserved, too near to the concept: {', '.join(self.synonyms)}")
        lines.append(f"evaluations: {self.evaluations['no_grad']} without gradient, {self.evaluations['grad']} with")
        lines += [f"memory, {what}: {size / _MIB:.1f} MiB" for what, size in self.memory.items()]
        return "\n".join(lines)


def _of_words(n: int, of: int) -> str:
    return f" with {n:,} of {of:,} words" if n else ""


def make_plan(task: Task, anchors: Anchors) -> Plan:
    """What would be trained, and what it would cost. The denoiser is not evaluated.

    Args:
        task: What to train.
        anchors: The anchor of each concept.
    """
    family, config, limits, prompts = task.family, task.config, task.limits, task.prompts
    selection, confined = task.selection, task.is_confined
    names = selection.confinable().names if confined else selection.names
    wide = tuple(n for n in names if confined and layer_width(family.denoiser.get_submodule(n)) > limits.widest)
    layers = tuple(layer for layer in names if layer not in wide)
    others = sees_text(family, layers)[1] if confined else []
    left_out = {MIXED: tuple(layer for layer in selection.names if layer not in names), WIDE: wide}
    return Plan(
        concepts=prompts.concepts,
        name=task.name,
        layers=layers,
        left_out={reason: layers for reason, layers in left_out.items() if layers},
        anchors=anchors.prompts,
        preserved=prompts.preserved.prompts,
        synonyms=prompts.preserved.synonyms,
        words=(prompts.preserved.words, prompts.preserved.vocabulary),
        of_moments=prompts.count_of_moments(limits, sees_images=bool(others)) if confined else 0,
        of_loss=len(prompts.loss),
        evaluations=_evaluations(
            config, limits, prompts, anchors, {n: layer_width(family.denoiser.get_submodule(n)) for n in others}
        ),
        memory=_memory(family, config, limits, layers, others, prompts, confined=confined),
    )


def _evaluations(
    config: ESDConfig, limits: Limits, prompts: Prompts, anchors: Anchors, widths: dict[str, int]
) -> dict[str, int]:
    """Approximate number of samples that all iterations of a training evaluate.

    Args:
        config: The configuration.
        limits: The limits.
        prompts: The prompts.
        anchors: The anchor of each concept.
        widths: Input widths of the layers whose moments come from trajectories.
    """
    passes, of_concept = len(list(portions(widths, limits.memory))), len(prompts.concept_runs) // 2
    held_out = limits.held_out + of_concept if widths else 0
    moments = limits.steps * (passes * (limits.trajectories + of_concept) + held_out)
    teacher = 2 + (config.erase_from is not None) + any(anchors.prompts.values())
    no_grad = anchors.evaluations + moments + teacher * config.states + _on_the_way(config, len(prompts.student), None)
    grad = config.states
    if prompts.loss:
        no_grad += 2 * config.states + _on_the_way(config, len(prompts.loss), PRESERVED_AT_A_TIME)
        grad += config.states
    return {"no_grad": round(no_grad), "grad": grad}


def _on_the_way(config: ESDConfig, prompts: int, at_a_time: int | None) -> float:
    """Evaluations in which trajectories reach the states of the loss."""
    steps = config.num_inference_steps
    if config.trajectory == "fresh":
        return config.states * (steps - 1)
    size, stride = pool_size(prompts, config.batch_size, at_a_time), pool_stride(prompts, steps, config.states)
    start = sum(min(JUMPS, math.ceil(int((i + 0.5) * steps / size) / stride)) for i in range(size))
    laps = config.states * stride / steps
    return 2 * (start + laps * (1 - 1 / stride))


def _memory(
    family: Family,
    config: ESDConfig,
    limits: Limits,
    layers: Sequence[str],
    others: Sequence[str],
    prompts: Prompts,
    *,
    confined: bool,
) -> dict[str, int]:
    """Bytes by purpose."""
    modules = {layer: family.denoiser.get_submodule(layer) for layer in layers}
    outputs = sum(len(base_layer(module).weight) for module in modules.values())
    inputs = sum(map(layer_width, modules.values()))
    # Weights and gradients in float32, Adam's two averages in float32 or eight bits; a fixed A has weights alone.
    each = 16 if config.optimizer == "adam" else 10
    size = each * outputs + 4 * inputs if confined else each * (outputs + inputs)
    encoded = Encoded(family)
    encoded.add(prompts.student[:1])
    needed = {"", *prompts.student, *prompts.loss, *(prompts.preserved_runs + prompts.concept_runs if others else ())}
    return {
        "denoiser": sum(p.nbytes for p in family.denoiser.parameters()),
        "adapter and Adam": config.rank * size,
        "moments, before training": min(limits.memory, sum(2 * 4 * layer_width(modules[n]) ** 2 for n in others)),
        "encoded prompts, on the CPU": encoded.nbytes() * len(needed),
    }
