"""`begin`: a training starts from the beginning, or goes on from a checkpoint, in all of its processes together.

What only one process should do is done by the main one: it reads the checkpoint or chooses the prompts, and the others
get what it found. `train` does the same for anchors and null space.
"""

from __future__ import annotations

from dataclasses import replace

from ..erasure import Erasure
from .checkpoint import find
from .encoding import check_encoders
from .identity import identify
from .progress import Callback
from .prompts import Prompts, choose
from .task import Task
from .train import train


def begin(task: Task, callback: Callback | None) -> Erasure:
    """Train an adapter. It stays on the denoiser, active; after an error it is removed.

    Args:
        task: What to train; of its prompts, only the concepts need to be there.
        callback: Called after every iteration, in the main process.

    Raises:
        ValueError: If the processes would train different things, or as `find` and `choose` say.
        OSError: As `find` says.
        RuntimeError: If another process fails.
    """
    concepts, processes = task.prompts.concepts, task.processes
    identity = identify(
        task.family, task.config, task.limits, concepts, task.beside, task.start, processes=processes.number
    )
    processes.check_equal({"name": task.name, **identity})
    # A and B of a refinement come from a decomposition, which another machine may turn.
    task = replace(task, start=processes.from_main(lambda: task.start))
    checkpoint = processes.from_main(lambda: find(task.run, task.name, identity))
    prompts = processes.from_main(lambda: chosen(task)) if checkpoint is None else checkpoint.prepared.prompts
    return train(replace(task, prompts=prompts), callback, checkpoint)


def chosen(task: Task) -> Prompts:
    """The prompts of a task whose concepts are known.

    Raises:
        ValueError: If the pipeline has no text encoder, or as `choose` says.
    """
    check_encoders(task.family)
    return choose(task.encoded, task.processes.joint(task.config), task.limits, task.prompts.concepts)
