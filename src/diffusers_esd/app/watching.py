"""How a job is cancelled and how its progress is seen, whatever it calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..denoiser import find_denoiser
from .job import Job

_FORMAT = "{n}\t{total}\t{desc}"


@contextmanager
def cancelled_in(pipe: Any, job: Job, *, until: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Inside, an evaluation of the denoiser raises `CancelledError` if the visitor has cancelled the job.

    The public functions leave the pipeline as it was after any error.

    Args:
        pipe: The pipeline.
        job: The job.
        until: From when on it does not, because the action ends in another way.
    """

    def check(*_: Any) -> None:
        if not until():
            job.check()

    handle = find_denoiser(pipe)[1].register_forward_pre_hook(check)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def with_bar(pipe: Any, job: Job, what: str) -> Iterator[None]:
    """Inside, the pipeline's progress bars are the job's.

    Args:
        pipe: The pipeline.
        job: The job.
        what: What is counted, if the bar does not say it.
    """
    before = dict(getattr(pipe, "_progress_bar_config", {}))
    pipe.set_progress_bar_config(file=_Bar(job, what), bar_format=_FORMAT, mininterval=0.0)
    try:
        yield
    finally:
        pipe.set_progress_bar_config(**before)


class _Bar:
    """A stream to which tqdm writes a bar."""

    def __init__(self, job: Job, what: str) -> None:
        self._job, self._what = job, what

    def write(self, text: str) -> None:
        """Show what the bar says."""
        numbers = text.strip("\r\n ").split("\t")
        if len(numbers) == 3 and numbers[0].isdecimal() and numbers[1].isdecimal():
            done, total, what = int(numbers[0]), int(numbers[1]), numbers[2].strip(": ") or self._what
            self._job.show(now=f"{what}: {done} of {total}", share=done / total if total else None)

    def flush(self) -> None:
        """Nothing is kept back."""
