"""`Plan`: which layers and prompts an erasure will use, and what it will cost, before anything is spent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..config import ESDConfig
from ..denoiser import base_layer
from ..groups import MIXED
from ..quantization import stored_bytes, weight_shape
from .anchors import Anchors
from .encoding import Encoded
from .inputs import layer_width
from .null_space import sees_text
from .pool import JUMPS, PRESERVED_AT_A_TIME, pool_size, pool_stride
from .prompts import Prompts
from .task import Task

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
        evaluations: Approximate number of samples that the denoiser evaluates, in all processes: `"no_grad"` and
            `"grad"`.
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
    trajectories = len(prompts.preserved_runs) + len(prompts.concept_runs)
    selection, confined = task.selection, task.is_confined
    names = selection.confinable().names if confined else selection.names
    others = sees_text(family, names)[1] if confined else []
    mixed = tuple(layer for layer in selection.names if layer not in names)
    return Plan(
        concepts=prompts.concepts,
        name=task.name,
        layers=names,
        left_out={MIXED: mixed} if mixed else {},
        anchors=anchors.prompts,
        preserved=prompts.preserved.prompts,
        synonyms=prompts.preserved.synonyms,
        words=(prompts.preserved.words, prompts.preserved.vocabulary),
        of_moments=prompts.count_of_moments(sees_images=bool(others)) if confined else 0,
        of_loss=len(prompts.loss),
        evaluations=_evaluations(
            task.processes.joint(config), prompts, anchors, limits.steps * trajectories if others else 0
        ),
        memory=_memory(task, names, others),
    )


def _evaluations(config: ESDConfig, prompts: Prompts, anchors: Anchors, null_space: int) -> dict[str, int]:
    """Approximate number of samples that all iterations of a training evaluate.

    Args:
        config: The configuration.
        prompts: The prompts.
        anchors: The anchor of each concept.
        null_space: Those of the null space.
    """
    teacher = 2 + (config.erase_from is not None) + any(anchors.prompts.values())
    no_grad = (
        anchors.evaluations + null_space + teacher * config.states + _on_the_way(config, len(prompts.student), None)
    )
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


def _memory(task: Task, layers: Sequence[str], others: Sequence[str]) -> dict[str, int]:
    """Bytes by purpose.

    Args:
        task: What to train.
        layers: The layers that the adapter may train.
        others: Those whose moments come from trajectories.
    """
    family, config, limits, prompts = task.family, task.config, task.limits, task.prompts
    modules = {layer: family.denoiser.get_submodule(layer) for layer in layers}
    outputs = sum(weight_shape(base_layer(module))[0] for module in modules.values())
    inputs = sum(map(layer_width, modules.values()))
    # Weights and gradients in float32, Adam's two averages in float32 or eight bits; a fixed A has weights alone.
    each = 16 if config.optimizer == "adam" else 10
    size = each * outputs + 4 * inputs if task.is_confined else each * (outputs + inputs)
    trajectories = prompts.preserved_runs + prompts.concept_runs if others else ()
    rows = limits.samples * limits.steps * len(trajectories)
    encoded = Encoded(family)
    encoded.add(prompts.student[:1])
    return {
        "denoiser": sum(stored_bytes(p) for p in family.denoiser.parameters()),
        "adapter and Adam": config.rank * size,
        "inputs of layers, before training, on the CPU": rows
        * family.dtype.itemsize
        * sum(layer_width(modules[layer]) for layer in others),
        "encoded prompts, on the CPU": encoded.nbytes() * len({"", *prompts.student, *prompts.loss, *trajectories}),
    }
