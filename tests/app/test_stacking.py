"""What a visitor asks of their stack: what the page shows as code is what happens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from controls import must_fail
from emoji_sd import load
from PIL import ImageChops

from diffusers_esd import Erasure, Report
from diffusers_esd.app.folder import Shelf
from diffusers_esd.app.job import Job, Jobs
from diffusers_esd.app.judge import JudgeChoice
from diffusers_esd.app.stacking import EXPLICIT, Calibrated, Compared, Evaluated, concepts_of
from diffusers_esd.report_table import table

Wait = Callable[[Job], Job]


def value_of(code: str) -> Any:
    """The value of the last expression of a code."""
    start, _, last = code.rpartition("\n\n")
    namespace: dict[str, Any] = {"pipe": load()}
    exec(start, namespace)
    return eval(last, namespace)


def test_a_comparison_is_its_code(shelf: Shelf, jobs: Jobs, visitor: str, ended: Wait) -> None:
    action = Compared(shelf, {"no-a-cat": 0.8, "no-a-dog": 0.0}, ["a cat"], [3], 2)
    job = ended(jobs.start(visitor, action))
    assert job.view.state == "done", job.view
    assert "no-a-dog" not in action.code, "the scale 0 leaves it out"
    assert ImageChops.difference(job.view.picture, value_of(action.code)).getbbox() is None
    with must_fail("another scale draws another image"):
        other = Compared(shelf, {"no-a-cat": 0.1}, ["a cat"], [3], 2)
        assert ImageChops.difference(job.view.picture, value_of(other.code)).getbbox() is None


def test_explicit_pictures_are_drawn_only_when_asked_for(shelf: Shelf) -> None:
    explicit = Erasure.from_pretrained(shelf.erasure("no-a-cat"))
    explicit.provenance.__dict__["concepts"] = ("nudity",)
    explicit.save_pretrained(shelf.place("erasures", "no-nudity"))
    assert concepts_of(shelf, {"no-nudity": 0, "no-a-dog": 1}) == ["nudity", "a dog"]
    for scales, prompt in (({"no-a-cat": 1}, "a naked cat"), ({"no-nudity": 1}, "a cat")):
        with pytest.raises(ValueError, match=f"^{EXPLICIT}$"):
            Compared(shelf, scales, [prompt])
        Compared(shelf, scales, [prompt], explicit=True)


def test_too_much_and_too_little_are_refused(shelf: Shelf) -> None:
    scales = {"no-a-cat": 1.0}
    with pytest.raises(ValueError, match=r"^`prompts` is empty; give at least one, each in a line\.$"):
        Compared(shelf, scales, [])
    with pytest.raises(ValueError, match=r"^2 prompts with 7 seeds are too many; 24 images is the most\.$"):
        Compared(shelf, scales, ["a", "b"], range(7))
    with pytest.raises(ValueError, match="`steps` must be"):
        Compared(shelf, scales, ["a"], steps=0)
    with pytest.raises(ValueError, match="`steps` must be"):
        Evaluated(shelf, scales, "report", steps=0)


def test_what_cannot_be_calibrated_says_so(shelf: Shelf, jobs: Jobs, visitor: str, ended: Wait) -> None:
    action = Calibrated(shelf, {"no-a-cat": 1.0})
    job = ended(jobs.start(visitor, action))
    assert job.view.state == "failed"
    assert job.view.now.startswith("The erasure of a cat leaves it intact: there is nothing to calibrate.")
    with pytest.raises(ValueError, match="leaves it intact"):
        exec(action.code, {"pipe": load()})


def test_a_measurement_is_its_code_and_stays_with_the_erasure(
    shelf: Shelf, jobs: Jobs, visitor: str, ended: Wait
) -> None:
    judge = JudgeChoice("emoji_sd.recogniser:EmojiJudge")
    action = Evaluated(shelf, {"no-a-cat": 1.0, "no-a-dog": 0.0}, "report", judge, steps=1)
    job = ended(jobs.start(visitor, action))
    assert job.view.state == "done", job.view
    report = Report.from_pretrained(job.view.file.parent)
    assert job.view.text == table(report)
    assert job.view.file.name == "report.html"
    assert Erasure.from_pretrained(shelf.erasure("no-a-cat")).report == report
    namespace: dict[str, Any] = {"pipe": load()}
    exec(action.code, namespace)  # the images are there, so it only judges again
    assert namespace["report"].rows == report.rows
