"""The loop of a training. It ends when all concepts are done, after `iterations`, or at Ctrl-C.

A concept that is done rests: it is not trained, but measured from time to time, and trained again if it comes back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import nn

from ..config import ESDConfig
from .anchors import Anchors
from .iteration import Iteration
from .networks import Networks
from .progress import Progress
from .prompts import Prompts
from .state import new_state

_MEASURE_EVERY = 4  # iterations between two measurements of resting concepts
_MEASUREMENTS = 8  # in so many, each of them is measured once


class Training:
    """The iterations of one `ESDTrainer.erase`.

    Args:
        config: The configuration.
        networks: Teacher and student; the prompts are encoded already.
        parameters: The weights that train.
        prompts: The prompts.
        anchors: The anchor of each concept.

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
    ) -> None:
        self.config, self.networks, self.prompts, self.anchors = config, networks, prompts, anchors
        self.state = new_state(config, networks, parameters, prompts)
        self.complete = False
        self._iteration = Iteration(config, anchors.prompts, networks, self.state)

    def run(self, callback: Callable[[Progress], None] | None) -> None:
        """Iterate to the end.

        Args:
            callback: Called after every iteration.
        """
        state = self.state
        try:
            bar = self.networks.schedule.family.pipe.progress_bar(total=self.config.iterations)
            with bar:
                while len(state.history) < self.config.iterations and state.erase.has_work():
                    progress = self.iterate()
                    bar.set_postfix(loss=f"{progress.loss:.4f}", alignment=f"{progress.smoothed_alignment:.2f}")
                    bar.update()
                    if callback is not None:
                        callback(progress)
            self.complete = True
        except KeyboardInterrupt:
            pass

    def iterate(self) -> Progress:
        """One optimiser update. Then concepts that are done rest, and those whose alignment has risen wake."""
        state = self.state
        self._iteration.update()
        self._settle()
        smoothed = state.alignments.mean()
        assert smoothed is not None
        loss, alignment = state.history[-1]
        return Progress(len(state.history), loss, alignment, smoothed, state.alignments.values())

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
