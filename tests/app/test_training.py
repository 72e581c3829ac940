"""The plan and the training that a visitor asks for: what the page shows as code is what happens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from controls import must_fail
from emoji_sd import load

from diffusers_esd import Erasure, ESDTrainer
from diffusers_esd.app.folder import Shelf
from diffusers_esd.app.job import CancelledError, Job, Jobs
from diffusers_esd.app.training import HIDDEN, Planned, Request, Trained, described
from diffusers_esd.denoiser import adapter_names, find_denoiser

SETTINGS = {"group": "esd-x", "iterations": 2, "num_inference_steps": 2, "null_space": False, "preserve": []}
Wait = Callable[[Job], Job]


def same_weights(a: Erasure, b: Erasure) -> bool:
    return a.weights.keys() == b.weights.keys() and all(
        torch.equal(a.weights[key], b.weights[key]) for key in a.weights
    )


@pytest.fixture(scope="module")
def own_jobs() -> Any:
    pipe = load()
    pipe.set_progress_bar_config(disable=True)
    jobs = Jobs(pipe)
    yield pipe, jobs
    jobs.close()


def test_a_training_is_its_code_and_is_saved(
    own_jobs: Any, tmp_path: Path, visitor: str, ended: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pipe, jobs = own_jobs
    shelf = Shelf(Path("app"), visitor)
    request = Request("a cat", "no-a-cat", SETTINGS, ("a dog",))
    job = ended(jobs.start(visitor, Trained(request, shelf)))
    assert (job.view.state, job.view.now) == ("done", "saved as no-a-cat")
    assert job.view.picture.size[0] > 700, "base and erased, on two seeds"
    assert job.view.curves is not None
    assert job.view.file.read_bytes()
    assert shelf.scales() == {"no-a-cat": 1.0}
    assert not any(Path("app", visitor, "runs").iterdir())
    assert adapter_names(find_denoiser(pipe)[1]) == [], "the pipeline is as it was, for the next visitor"
    erasure = Erasure.from_pretrained(shelf.erasure("no-a-cat"))
    assert erasure.provenance.iterations == 2

    code = {"pipe": load()}
    exec(job.action.code, code)
    assert same_weights(code["erasure"], erasure)
    assert same_weights(Erasure.from_pretrained(job.action.folder), erasure), "the code saves it too"
    with must_fail("another seed gives other weights"):
        assert same_weights(ESDTrainer(load(), **SETTINGS, seed=1).erase("a cat"), erasure)


def test_a_cancelled_training_is_saved_as_it_is(own_jobs: Any, tmp_path: Path, visitor: str, ended: Wait) -> None:
    pipe, jobs = own_jobs
    shelf = Shelf(tmp_path, visitor)
    request = Request("nudity", "no-nudity", {**SETTINGS, "iterations": 10_000})
    job = jobs.start(visitor, Trained(request, shelf))
    while job.view.share is None:
        assert not job.has_ended, job.view
    job.cancel()
    ended(job)
    assert job.view.state == "stopped"
    erasure = Erasure.from_pretrained(shelf.erasure("no-nudity"))
    assert not erasure.provenance.complete
    assert job.view.now == f"cancelled after {erasure.provenance.iterations} iterations; saved as no-nudity"
    assert adapter_names(find_denoiser(pipe)[1]) == []


def test_a_training_that_is_cancelled_before_it_begins_leaves_nothing(
    own_jobs: Any, tmp_path: Path, visitor: str
) -> None:
    pipe, _ = own_jobs
    shelf = Shelf(tmp_path, visitor)
    job = Job(visitor, Trained(Request("a cat", "no-a-cat", {**SETTINGS, "group": "esd-u"}), shelf))
    job.cancel()
    with pytest.raises(CancelledError):
        job.action.run(pipe, job)
    assert shelf.names() == []
    assert not list(tmp_path.rglob("checkpoint*"))
    assert adapter_names(find_denoiser(pipe)[1]) == []


def test_explicit_pictures_are_drawn_only_when_asked_for(shelf: Shelf) -> None:
    for concept, prompts, has in (("nudity", (), False), ("a cat", ("a naked cat",), False), ("a cat", (), True)):
        request = Request(concept, "x", SETTINGS, prompts)
        assert request.has_pictures is has
        assert ("sample_every" in Trained(request, shelf).code) is has
        asked = replace(request, explicit=True)
        assert "sample_every" in Trained(asked, shelf).code
    assert "Tick" in HIDDEN


def test_a_plan_is_its_code_and_says_what_is_protected(
    own_jobs: Any, visitor: str, ended: Wait, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"group": "esd-x", "iterations": 2, "num_inference_steps": 2, "anchor": "auto", "synonyms": ["owl"]}
    job = ended(own_jobs[1].start(visitor, Planned(Request("a cat", "no-a-cat", settings))))
    assert job.view.state == "done", job.view
    text = job.view.text
    assert text.startswith("**a cat** is erased towards “")
    assert "must not change" in text
    assert "*owl*" in text.partition("**Not protected**")[2].partition("```")[0]
    capsys.readouterr()
    exec(job.action.code, {"pipe": load()})
    printed = capsys.readouterr().out.strip()
    assert f"```text\n{printed}\n```" in text


def test_bad_values_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="`iterations` must be"):
        Request("a cat", "x", {"iterations": 0})
    with pytest.raises(ValueError, match="`concept` is empty"):
        Request(" ", "x")


def test_words_of_a_plan_are_not_read_as_markdown(own_jobs: Any, visitor: str) -> None:
    plan = ESDTrainer(own_jobs[0], **SETTINGS, anchor="<b>*x*").erase("a cat", dry_run=True)
    assert "“&#60;b&#62;&#42;x&#42;”" in described(plan)
