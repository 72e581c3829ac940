"""A desk of the small model, and what a form of the page contains."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from emoji_sd import load
from made import made

from diffusers_esd.app.desk import Desk
from diffusers_esd.app.folder import Shelf, new_visitor
from diffusers_esd.app.job import Job, Jobs
from diffusers_esd.app.judge import JudgeChoice

FORM = {
    "concept": "a cat", "words": "when the prompt names it", "together": False, "prompts": "", "synonyms": "",
    "explicit": False, "iterations": "2", "rank": "", "learning_rate": "", "eta": "", "seed": "",
}  # fmt: skip


def quick(group: str, together: bool) -> dict[str, Any]:
    """Settings of a training that takes seconds."""
    return {"num_inference_steps": 2, "null_space": False, "preserve": [], **({"anchor": "auto"} if together else {})}


@pytest.fixture(scope="package")
def jobs() -> Iterator[Jobs]:
    pipe = load()
    pipe.set_progress_bar_config(disable=True)
    jobs = Jobs(pipe)
    yield jobs
    jobs.close()


@pytest.fixture
def desk(jobs: Jobs, tmp_path: Path) -> Desk:
    return Desk(tmp_path / "output", jobs, settings=quick, judge=JudgeChoice("emoji_sd.recogniser:EmojiJudge"))


@pytest.fixture
def visitor() -> str:
    return new_visitor()


@pytest.fixture
def shelf(desk: Desk, visitor: str, jobs: Jobs) -> Shelf:
    """The files of a visitor who has two erasures."""
    shelf = desk.shelf(visitor)
    for seed, concept in enumerate(("a cat", "a dog")):
        erasure = made(load(), concept, group="esd-x", rank=1, seed=seed)
        erasure.save_pretrained(shelf.place("erasures", erasure.name))
    return shelf


@pytest.fixture
def ended() -> Callable[[Job], Job]:
    """Waits for the end of a job."""

    def wait(job: Job) -> Job:
        deadline = time.monotonic() + 120
        while not job.has_ended:
            assert time.monotonic() < deadline, job.view
            time.sleep(0.01)
        return job

    return wait
