"""`Jobs`: one thing at a time on the pipeline, in the order in which visitors asked, in a thread of its own.

A job does not belong to a page: it goes on when the page is closed, and a page that is loaded again finds it. Each
visitor has one job at a time.
"""

from __future__ import annotations

import threading
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal, Protocol

from PIL.Image import Image

EXPECTED = (ValueError, TypeError, OSError, RuntimeError, ImportError)
"""The package's own errors, whose text says what to do."""

_KEPT = 100  # jobs that have ended, whose pictures are in memory
_NUMBERS = count(1)

State = Literal["waiting", "running", "done", "stopped", "failed"]


@dataclass(frozen=True)
class View:
    """What a page shows of a job.

    Attributes:
        changes: How often the view had changed when each field got its value, by name.
        state: Where the job is.
        now: What it does at the moment, or why it ended.
        share: How much of that is done, from 0 to 1; `None` if it is not known.
        notes: Warnings.
        text: The result, in Markdown.
        picture: Images (PIL).
        curves: The figure of loss and alignment (PIL).
        file: A file to download.
    """

    changes: Mapping[str, int] = field(default_factory=dict)
    state: State = "waiting"
    now: str = ""
    share: float | None = None
    notes: tuple[str, ...] = ()
    text: str = ""
    picture: Image | None = None
    curves: Image | None = None
    file: Path | None = None


class CancelledError(Exception):
    """The visitor has cancelled the job."""


class Action(Protocol):
    """What a job does: a call of the public interface."""

    @property
    def title(self) -> str:
        """What it is called on the page."""

    @property
    def code(self) -> str:
        """The call as code."""

    def run(self, pipe: Any, job: Job) -> None:
        """Call it, and show in the job what comes of it."""


class Job:
    """An action that waits, runs or has ended.

    Args:
        visitor: Whose it is.
        action: What it does.

    Attributes:
        number: A number that no other job has.
        view: What a page shows.
    """

    def __init__(self, visitor: str, action: Action) -> None:
        self.number, self.visitor, self.action, self.view = next(_NUMBERS), visitor, action, View()
        self._cancelled, self._lock = threading.Event(), threading.Lock()

    def show(self, **fields: Any) -> None:
        """Change fields of the view."""
        with self._lock:
            before = self.view.changes
            changes = {**before, **dict.fromkeys(fields, max(before.values(), default=0) + 1)}
            self.view = replace(self.view, changes=changes, **fields)

    def note(self, text: str) -> None:
        """Add a warning to the view."""
        if text not in self.view.notes:
            self.show(notes=(*self.view.notes, text))

    def cancel(self) -> None:
        """Ask it to end."""
        self._cancelled.set()
        if not self.has_ended:
            self.show(now="stops as soon as it can")

    @property
    def is_cancelled(self) -> bool:
        """Whether it must end."""
        return self._cancelled.is_set()

    @property
    def has_ended(self) -> bool:
        """Whether it is not waiting or running any more."""
        return self.view.state not in ("waiting", "running")

    def check(self) -> None:
        """End here if the visitor has cancelled the job.

        Raises:
            CancelledError: If they have.
        """
        if self.is_cancelled:
            raise CancelledError


class Jobs:
    """The jobs of all visitors.

    Args:
        pipe: The pipeline that they use. Every job leaves it as it was.
    """

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._jobs: dict[str, Job] = {}
        self._thread = threading.Thread(target=self._work, name="diffusers-esd jobs", daemon=True)
        self._thread.start()

    def of(self, visitor: str) -> Job | None:
        """The latest job of a visitor."""
        return self._jobs.get(visitor)

    def start(self, visitor: str, action: Action) -> Job:
        """Add a job.

        Raises:
            ValueError: If the visitor has one that has not ended.
        """
        with self._lock:
            latest = self.of(visitor)
            if latest is not None and not latest.has_ended:
                raise ValueError(f"Still busy: {latest.action.title}. Wait for its end, or cancel it.")
            job = Job(visitor, action)
            self._jobs.pop(visitor, None)
            self._jobs[visitor] = job  # in the order in which they were asked
            for other in [other for other, old in self._jobs.items() if old.has_ended][:-_KEPT]:
                del self._jobs[other]
            self._queue.put(job)
        return job

    def before(self, job: Job) -> int:
        """How many jobs of others come first."""
        jobs = list(self._jobs.values())
        return sum(not other.has_ended for other in jobs[: jobs.index(job)]) if job in jobs else 0

    def close(self) -> None:
        """Cancel all jobs, and wait for the end of the one that runs."""
        for job in list(self._jobs.values()):
            job.cancel()
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                warnings.simplefilter("always", UserWarning)
                warnings.showwarning = _showing(job, warnings.showwarning)
                self._run(job)

    def _run(self, job: Job) -> None:
        try:
            job.check()
            job.show(state="running", now="starts")
            job.action.run(self._pipe, job)
        except CancelledError:
            job.show(state="stopped", now="cancelled", share=None)
        except Exception as error:  # whatever it is, the page says it, and the next job starts
            if not isinstance(error, EXPECTED):
                traceback.print_exc()
            job.show(state="failed", now=explained(error), share=None)
        else:
            job.show(state="stopped" if job.is_cancelled else "done", share=None)


def explained(error: BaseException) -> str:
    """An error in words: its text, or its kind if it is not one of the package's."""
    text = " ".join([str(error), *getattr(error, "__notes__", ())]).strip()
    return text if isinstance(error, EXPECTED) and text else f"{type(error).__name__}: {text or 'without a message'}"


def _showing(job: Job, otherwise: Callable[..., None]) -> Callable[..., None]:
    """Python's `showwarning`, which shows the package's warnings on the page."""

    def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
        if category is UserWarning:
            job.note(str(message))
        else:
            otherwise(message, category, *place)

    return show
