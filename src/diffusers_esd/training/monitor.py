"""`Monitor`: what a training writes for people while it runs: its history, images, and what a tracker logs."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import asdict
from types import TracebackType

from .checkpoint import Checkpoint
from .history import HISTORY_NAME, History
from .progress import Progress
from .samples import Samples
from .task import Task
from .tracking import Tracker


class Monitor:
    """A context that writes to `output_dir/<adapter name>`: `history.jsonl`, `samples/` and `logs/`.

    Args:
        task: The training.
        resumed: The checkpoint that it goes on from.
        started: `time.monotonic()` at its start, earlier by the time that it took before the checkpoint.
        writes: Whether this process writes; of several, one does.
    """

    def __init__(self, task: Task, resumed: Checkpoint | None, started: float, *, writes: bool = True) -> None:
        folder = task.run.folder(task.name) if writes else None
        self._started, self._iterations = started, 0
        self._history: History | None = None
        self._samples: Samples | None = None
        self._tracker: Tracker | None = None
        if folder is None:
            return
        earlier = None
        if resumed is not None:
            self._iterations, earlier = len(resumed.training["state"]["history"]), resumed.path.parent / HISTORY_NAME
        self._history = History(folder / HISTORY_NAME, earlier, self._iterations)
        if task.run.sample_every is not None:
            self._samples = Samples(task, folder / "samples", self._iterations)
        if task.run.report_to is not None:
            self._tracker = Tracker(
                task.run.report_to,
                folder / "logs",
                run=task.name,
                settings={"concepts": ", ".join(task.prompts.concepts), **task.config.to_dict()},
                prompts=task.prompts.student,
                iterations=self._iterations,
            )

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._tracker is not None:
            # The training has ended without `end`: after an error, which the user must see, or at a second Ctrl-C.
            with suppress(Exception):
                self._tracker.finish()

    def record(self, progress: Progress) -> None:
        """Write an iteration to the history. Never fails: what cannot be written is warned of."""
        self._iterations = progress.iteration
        if self._history is not None:
            self._history.append({**asdict(progress), "seconds": round(time.monotonic() - self._started, 3)})

    def sync(self) -> None:
        """Wait until the history is on the disk."""
        if self._history is not None:
            self._history.sync()

    @property
    def reports(self) -> bool:
        """Whether `report` ever does something."""
        return self._tracker is not None or self._samples is not None

    def report(self, progress: Progress) -> None:
        """Log an iteration, and draw if it is time."""
        if self._tracker is not None:
            values = asdict(progress)
            del values["iteration"]
            self._tracker.log(progress.iteration, alignments=values.pop("alignments"), values=values)
        self._draw(at_end=False)

    def end(self, *, complete: bool) -> None:
        """Draw once more if the training is complete, and close the tracker."""
        if complete:
            self._draw(at_end=True)
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            tracker.finish()

    def _draw(self, *, at_end: bool) -> None:
        if self._samples is not None and self._samples.is_due(self._iterations, at_end=at_end):
            picture = self._samples.write(self._iterations)
            if self._tracker is not None:
                self._tracker.log_image(self._iterations, picture)
