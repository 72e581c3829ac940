"""`train`: from a `Task` to an `Erasure`, and `plan`: what that would do. They connect the parts of a training.

`encoding` encodes the prompts, `anchors` finds what the concepts are erased towards, `null_space` decides which inputs
the adapter may answer, `loop` trains it, `record` collects what happened.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial

from torch import Tensor

from ..adapter import Adapter, read_weights
from ..arguments import warn_user
from ..denoiser import active_scales
from ..erasure import Erasure
from ..groups import Selection
from ..summary import is_intact, outcome
from .anchors import AnchorFinder
from .checkpoint import Checkpoint, Checkpoints, Prepared
from .graphs import Graphs, obstacle
from .inputs import uncompiled
from .loop import Training
from .memory import checkpointed, offloaded, with_memory_advice
from .monitor import Monitor
from .networks import Networks
from .null_space import NullSpace, NullSpaceFinder
from .plan import Plan, make_plan
from .progress import Callback
from .record import record
from .surroundings import own_settings
from .task import Task


def train(task: Task, callback: Callback | None, checkpoint: Checkpoint | None = None) -> Erasure:
    """Train an adapter. It stays on the denoiser, active; after an error it is removed.

    Args:
        task: What to train.
        callback: Called after every iteration.
        checkpoint: Where to go on from, and whose prompts the task has; `None` starts from the beginning.
    """
    started = time.monotonic() - (0.0 if checkpoint is None else checkpoint.seconds)
    config, family, prompts, processes = task.config, task.family, task.prompts, task.processes
    active = active_scales(family.denoiser)
    with (
        with_memory_advice(family, config, task.run),
        Monitor(task, checkpoint, started, writes=processes.is_main) as monitor,
        _prepared(task, checkpoint) as prepared,
    ):
        checkpoints = Checkpoints(task, prepared, checkpoint, started)
        with _attached(task, prepared.fixed_a) as adapter:
            with adapter.training(), checkpointed(family, task.run):
                schedule = family.schedule(config.num_inference_steps, task.shape, config.guidance_scale)
                graphs = Graphs(family.device, adapter.parameters, obstacle(family, task.run))
                networks = Networks(schedule, adapter, task.encoded, graphs, processes)
                joint = processes.joint(config)
                training = Training(
                    joint, networks, adapter.parameters, prompts, prepared.anchors, checkpoints, monitor
                )
                erasure = partial(_erasure, task, training, adapter.selection, prepared.space, active, started)
                training.run(callback if processes.is_main else None, erasure)
            adapter.fold_scale()
            result = erasure()
            result = replace(result, provenance=processes.from_main(lambda: result.provenance))
            if result.provenance.complete and is_intact(config, result.provenance):
                warn_user(f"Nothing was erased. {outcome(config, result.provenance)}.")
            return result


def _erasure(
    task: Task,
    training: Training,
    trained: Selection,
    space: NullSpace | None,
    active: Mapping[str, float],
    started: float,
) -> Erasure:
    """The erasure at this moment.

    Args:
        task: What is trained.
        training: Its iterations so far.
        trained: The layers that carry the adapter.
        space: The null space, if there is one.
        active: Scales of the other active adapters.
        started: `time.monotonic()` at the start.
    """
    family = task.family
    with own_settings(family.device):  # a callback may have changed them
        provenance = replace(
            record(family, task.limits, training, trained, task.selection, space),
            active=dict(active),
            beside=task.beside,
            seconds=round(time.monotonic() - started, 2),
            **task.origin,
        )
        weights = read_weights(family.denoiser, task.name, family.component)
    return Erasure(task.name, weights, task.config, provenance)


@contextmanager
def _prepared(task: Task, checkpoint: Checkpoint | None) -> Iterator[Prepared]:
    """What is known before the first iteration, found or from a checkpoint; inside, other models may be offloaded.

    All prompts are encoded here: the text encoders are not needed any more when the denoiser is. A checkpoint has them
    encoded, and so do the processes that get what the main one has found.
    """
    processes = task.processes
    with ExitStack() as stack:
        prepared = processes.from_main(lambda: _prepare(task, stack)) if checkpoint is None else checkpoint.prepared
        if checkpoint is not None or not processes.is_main:
            stack.enter_context(offloaded(task.family, task.run))
        task.encoded.restore(prepared.encodings)
        yield prepared


def _prepare(task: Task, stack: ExitStack) -> Prepared:
    """What is known before the first iteration. Until the stack is closed, other models may be offloaded."""
    encoded, prompts, anchor_finder = task.encoded, task.prompts, _anchor_finder(task)
    needed = ["", *prompts.concepts, *prompts.student, *prompts.loss]
    encoded.add([*needed, *anchor_finder.prompts])  # before the null space, which keeps only its own
    finder = _null_space_finder(task)
    encoded.keep_only([*needed, *anchor_finder.prompts, *([] if finder is None else finder.prompts)])
    stack.enter_context(offloaded(task.family, task.run))
    with uncompiled(task.family):
        anchors = anchor_finder.find()
        space = None if finder is None else finder.find()
    fixed_a: Mapping[str, Tensor] | None = None if space is None else space.fixed_a
    if task.start is not None:
        fixed_a = {layer: a for layer, (a, _) in task.start.items()}
    encodings = encoded.stored([*needed, *anchors.prompts.values()])
    return Prepared(prompts=prompts, encodings=encodings, anchors=anchors, space=space, fixed_a=fixed_a)


def plan(task: Task) -> Plan:
    """What a training would do and cost. The denoiser is evaluated only to find anchors."""
    finder = _anchor_finder(task)
    task.encoded.add(["", *task.prompts.concepts, *finder.prompts])
    with uncompiled(task.family):
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
def _attached(task: Task, fixed_a: Mapping[str, Tensor] | None) -> Iterator[Adapter]:
    """A new adapter on the denoiser, which is removed after an error."""
    adapter = Adapter(
        task.family.denoiser,
        task.name,
        task.selection if fixed_a is None else task.selection.only(fixed_a),
        rank=task.config.rank,
        lora_alpha=task.config.lora_alpha or task.config.rank,
        seed=task.config.seed,
        fixed_a=fixed_a,
        first_b=None if task.start is None else {layer: b for layer, (_, b) in task.start.items()},
    )
    try:
        yield adapter
    except BaseException:
        adapter.detach()
        raise
