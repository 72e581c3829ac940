"""The loop of a training. It ends when all concepts are done, after `iterations`, at Ctrl-C or SIGTERM, or if the
callback returns "stop".

A concept that is done rests: it is not trained, but measured from time to time, and trained again if it comes back.
Checkpoints are written between two iterations: an iteration that fails has changed a part of the state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn

from ..config import ESDConfig
from ..erasure import Erasure
from .anchors import Anchors
from .checkpoint import Checkpoints
from .interruption import Interruption
from .iteration import Iteration
from .monitor import Monitor
from .networks import Networks
from .progress import Callback, Progress
from .prompts import Prompts
from .state import new_state
from .surroundings import DisturbedError, Guard, own_settings

_MEASURE_EVERY = 4  # iterations between two measurements of resting concepts
_MEASUREMENTS = 8  # in so many, each of them is measured once


class Training:
    """The iterations of one `ESDTrainer.erase`.

    Args:
        config: The configuration, of a batch of all processes.
        networks: Teacher and student; the prompts are encoded already.
        parameters: The weights that train.
        prompts: The prompts.
        anchors: The anchor of each concept.
        checkpoints: Writes checkpoints, and knows the one to go on from.
        monitor: Writes what people look at while it runs.

    Attributes:
        state: What the iterations change.
        complete: Whether the training came to its end, without an interruption.
    """

    def __init__(
        self,
        config: ESDConfig,
        networks: Networks,
        parameters: Sequence[nn.Parameter],
        prompts: Prompts,
        anchors: Anchors,
        checkpoints: Checkpoints,
        monitor: Monitor,
    ) -> None:
        self.config, self.networks, self.prompts, self.anchors = config, networks, prompts, anchors
        saved = None if checkpoints.resumed is None else checkpoints.resumed.training
        self.state = new_state(config, networks, parameters, prompts, None if saved is None else saved["state"])
        if saved is not None:
            networks.evaluations.update(saved["evaluations"])
        self.complete = False
        self._checkpoints, self._monitor, self._is_whole = checkpoints, monitor, True
        self._processes = networks.processes
        self._iteration = Iteration(config, anchors.prompts, networks, self.state)

    def state_dict(self) -> dict[str, Any]:
        """What iterations change. The tensors are not copied."""
        return {"state": self.state.state_dict(), "evaluations": self.networks.evaluations}

    def run(self, callback: Callback | None, erasure: Callable[[], Erasure]) -> None:
        """Iterate to the end. An error says where the last checkpoint is.

        Args:
            callback: Called after every iteration.
            erasure: Makes the erasure at this moment, for a callback.
        """
        with Interruption() as interruption:
            try:
                self._save()  # what was prepared took time
                self._iterate(callback, erasure, interruption)
                # The others wait until the main process has saved: a launcher kills it if another ends by SIGTERM.
                self._processes.agree(self._finish)
            except BaseException as error:
                if self._is_whole:
                    self._save()
                # Of several processes, one that does not end with the others cannot have their erasure.
                if not (isinstance(error, KeyboardInterrupt) and self._processes.number == 1):
                    self._checkpoints.explain(error)
                    raise

    def _finish(self) -> int:
        self._save()
        self._monitor.end(complete=self.complete)
        return 0

    def _iterate(self, callback: Callback | None, erasure: Callable[[], Erasure], interruption: Interruption) -> None:
        state, family = self.state, self.networks.schedule.family
        guard = Guard(family.denoiser)
        with family.pipe.progress_bar(total=self.config.iterations) as bar:
            bar.update(len(state.history))
            level = self._processes.agree(lambda: interruption.level)
            while self._has_work() and not level:
                progress = self.iterate()
                bar.set_postfix(loss=f"{progress.loss:.4f}", alignment=f"{progress.smoothed_alignment:.2f}")
                bar.update()
                after = partial(self._after, progress, callback, erasure, guard, interruption)
                level = self._processes.agree(after)
            interruption.heed(level)
        self.complete = not self._has_work()

    def _after(
        self,
        progress: Progress,
        callback: Callback | None,
        erasure: Callable[[], Erasure],
        guard: Guard,
        interruption: Interruption,
    ) -> int:
        """What happens between two iterations. Returns above 0 if the training must end."""
        try:
            stop = self._report(progress, callback, erasure, guard)
        except BaseException:
            if self._is_whole:
                self._save()  # before other processes end because of this error
            raise
        if self._checkpoints.is_due(progress.iteration):
            self._save()
        return max(int(stop), interruption.level)

    def _report(
        self, progress: Progress, callback: Callback | None, erasure: Callable[[], Erasure], guard: Guard
    ) -> bool:
        """Log, draw and call the callback, none of which changes the training. Returns whether to stop."""
        if callback is None and not self._monitor.reports:
            return False  # the guard takes a few milliseconds
        try:
            with guard, progress.current(erasure):
                self._monitor.report(progress)
                return callback is not None and callback(progress) == "stop"
        except DisturbedError:
            self._is_whole = False
            raise

    def _has_work(self) -> bool:
        return len(self.state.history) < self.config.iterations and self.state.erase.has_work()

    def _save(self) -> None:
        self._monitor.sync()
        self._checkpoints.save(len(self.state.history), self.state_dict())

    def iterate(self) -> Progress:
        """One optimiser update. Then concepts that are done rest, and those whose alignment has risen wake."""
        state = self.state
        learning_rate = state.lr_scheduler.get_last_lr()[0]
        self._is_whole = False
        with own_settings(self.networks.schedule.family.device):
            self._iteration.update()
            self._settle()
        smoothed = state.alignments.mean()
        assert smoothed is not None
        loss, alignment = state.history[-1]
        progress = Progress(len(state.history), loss, alignment, smoothed, state.alignments.values(), learning_rate)
        self._monitor.record(progress)  # a checkpoint's iterations are all in the history
        self._is_whole = True
        return progress

    def _settle(self) -> None:
        """Let concepts rest or wake. Every few iterations, some of the resting ones are measured."""
        state = self.state
        resting = state.erase.resting
        if resting and len(state.history) % _MEASURE_EVERY == 0:
            self._measure(math.ceil(len(resting) / (_MEASUREMENTS * self.config.batch_size)))
        self._rest_or_wake()
        if not state.erase.has_work():
            # Nothing is left to train. Before the end, every concept is measured that this iteration did not draw; if
            # one has come back, the training goes on.
            while any(state.last_seen[prompt] < len(state.history) - 1 for prompt in resting):
                self._measure(1)
            self._rest_or_wake()

    def _measure(self, batches: int) -> None:
        """Update the alignments of resting concepts, without training on them."""
        for _ in range(batches):
            self._iteration.measure(self.state.erase.draw_resting())

    def _rest_or_wake(self) -> None:
        erase, alignments = self.state.erase, self.state.alignments
        for prompt in alignments.visits:
            if alignments.is_done(prompt):
                if prompt not in erase.resting:
                    erase.rest(prompt)
            elif prompt in erase.resting:
                erase.wake(prompt)
