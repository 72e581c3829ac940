"""How a job is cancelled and how its progress is seen."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from emoji_sd import load

from diffusers_esd.app.job import CancelledError, Job
from diffusers_esd.app.watching import cancelled_in, with_bar
from diffusers_esd.pictures.draw import draw


@pytest.fixture
def job() -> Job:
    return Job("a", SimpleNamespace(title="drawing", code="", run=None))


def test_a_cancelled_job_ends_at_the_next_evaluation(job: Job) -> None:
    pipe = load()
    pipe.set_progress_bar_config(disable=True)
    with cancelled_in(pipe, job):
        assert len(draw(pipe, ["a cat"], [0], num_inference_steps=1)) == 1
        job.cancel()
        with pytest.raises(CancelledError):
            draw(pipe, ["a cat"], [0], num_inference_steps=1)
        with cancelled_in(pipe, Job("b", job.action), until=lambda: True), pytest.raises(CancelledError):
            draw(pipe, ["a cat"], [0], num_inference_steps=1)
    draw(pipe, ["a cat"], [0], num_inference_steps=1)  # outside, nothing is left of it
    with cancelled_in(pipe, job, until=lambda: True):
        draw(pipe, ["a cat"], [0], num_inference_steps=1)


def test_the_pipelines_bar_is_the_jobs(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = load()
    capsys.readouterr()
    pipe.set_progress_bar_config(leave=False)
    seen: list[tuple[str, float | None]] = []

    def step(pipe: object, i: int, t: object, values: dict) -> dict:
        seen.append((job.view.now, job.view.share))
        return values

    with with_bar(pipe, job, "steps"):
        draw(pipe, ["a cat"], [0], num_inference_steps=4, callback_on_step_end=step)
        with pipe.progress_bar(total=2) as bar:
            bar.set_description("images, base")
    assert seen[-1] == ("steps: 3 of 4", 0.75)
    assert job.view.now == "images, base: 0 of 2"
    assert capsys.readouterr().err == ""
    assert pipe._progress_bar_config == {"leave": False}
