"""`train`: from a `Task` to an `Erasure`, and `plan`: what that would do. They connect the parts of a training.

`encoding` encodes the prompts, `anchors` finds what the concepts are erased towards, `null_space` decides which inputs
the adapter may answer, `loop` trains it, `record` collects what happened.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from ..adapter import Adapter, read_weights
from ..denoiser import active_scales
from ..erasure import Erasure
from .anchors import AnchorFinder
from .inputs import uncompiled
from .loop import Training
from .memory import checkpointed, offloaded
from .networks import Networks
from .null_space import NullSpace, NullSpaceFinder
from .plan import Plan, make_plan
from .progress import Progress
from .record import record
from .task import Task


def train(task: Task, callback: Callable[[Progress], None] | None) -> Erasure:
    """Train an adapter. It stays on the denoiser, active; after an error it is removed.

    Args:
        task: What to train.
        callback: Called after every iteration.
    """
    started = time.monotonic()
    config, family, prompts = task.config, task.family, task.prompts
    active = active_scales(family.denoiser)
    encoded = task.encoded
    # All prompts are encoded here, each once: the text encoders are not needed any more when the denoiser is.
    anchor_finder = _anchor_finder(task)
    needed = ["", *prompts.concepts, *prompts.student, *prompts.loss, *anchor_finder.prompts]
    encoded.add(needed)
    finder = _null_space_finder(task)
    encoded.keep_only([*needed, *([] if finder is None else finder.prompts)])
    with offloaded(family, task.run):
        with uncompiled(family.denoiser):
            anchors = anchor_finder.find()
            space = None if finder is None else finder.find()
        with _attached(task, space) as adapter:
            with adapter.training(), checkpointed(family, task.run):
                schedule = family.schedule(config.num_inference_steps, task.shape, config.guidance_scale)
                networks = Networks(schedule, adapter, encoded)
                training = Training(config, networks, adapter.parameters, prompts, anchors)
                training.run(callback)
            adapter.fold_scale()
            provenance = replace(
                record(family, task.limits, training, adapter.selection, task.selection, space),
                active=active,
                beside=task.beside,
                seconds=round(time.monotonic() - started, 2),
            )
            return Erasure(task.name, read_weights(family.denoiser, task.name, family.component), config, provenance)


def plan(task: Task) -> Plan:
    """What a training would do and cost. The denoiser is evaluated only to find anchors."""
    finder = _anchor_finder(task)
    task.encoded.add(["", *task.prompts.concepts, *finder.prompts])
    with uncompiled(task.family.denoiser):
        anchors = finder.find()
    return make_plan(task, anchors)


def _anchor_finder(task: Task) -> AnchorFinder:
    return AnchorFinder(task.family, task.config, task.limits, task.prompts.concepts, task.encoded, task.shape)


def _null_space_finder(task: Task) -> NullSpaceFinder | None:
    if not task.is_confined:
        return None
    names = task.selection.confinable().names
    return NullSpaceFinder(task.family, task.config, task.limits, task.prompts, names, task.encoded, task.shape)


@contextmanager
def _attached(task: Task, space: NullSpace | None) -> Iterator[Adapter]:
    """A new adapter on the denoiser, which is removed after an error."""
    fixed_a, first_b = None if space is None else space.fixed_a, None
    if task.start is not None:
        fixed_a = {layer: a for layer, (a, _) in task.start.items()}
        first_b = {layer: b for layer, (_, b) in task.start.items()}
    adapter = Adapter(
        task.family.denoiser,
        task.name,
        task.selection if fixed_a is None else task.selection.only(fixed_a),
        rank=task.config.rank,
        lora_alpha=task.config.lora_alpha or task.config.rank,
        seed=task.config.seed,
        fixed_a=fixed_a,
        first_b=first_b,
    )
    try:
        yield adapter
    except BaseException:
        adapter.detach()
        raise
