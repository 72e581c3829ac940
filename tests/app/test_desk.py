"""What a form contains becomes an action; what cannot be is refused before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diffusers_esd.app.desk import Desk, lines
from diffusers_esd.app.folder import Shelf, new_visitor
from diffusers_esd.app.job import Job

from .conftest import FORM

Wait = Callable[[Job], Job]
COMPARISON = {"prompts": "a cat", "seeds": 1, "first seed": 4.0, "steps": 1, "explicit": False}
PUBLISHED = {"repo_id": "me/x", "token": "", "private": True, "sure": True}


def test_a_form_becomes_a_training(desk: Desk, visitor: str, ended: Wait) -> None:
    form = {**FORM, "learning_rate": "1e-3", "eta": "2", "synonyms": "", "together": True, "prompts": "a\n\n b "}
    job = desk.erase(visitor, form)
    request = job.action.request
    assert request.settings == {
        "group": "esd-x", "num_inference_steps": 2, "null_space": False, "preserve": [], "anchor": "auto",
        "iterations": 2, "learning_rate": 1e-3, "eta": 2,
    }  # fmt: skip
    assert request.prompts == ("a", "b")
    assert ended(job).view.state == "done", job.view
    assert desk.scales(visitor) == {"no-a-cat": 1.0}
    assert desk.erase(visitor, FORM).action.request.name == "no-a-cat-2"
    desk.cancel(visitor)
    ended(desk.jobs.of(visitor))


def test_a_form_that_cannot_be_is_refused_at_once(desk: Desk, visitor: str) -> None:
    for changes, message in (
        ({"words": "full"}, "Choose when it must disappear: when the prompt names it or in any case."),
        ({"concept": " "}, "`concept` is empty"),
        ({"concept": None}, "`concept` must be a string"),
        ({"iterations": "many"}, "`iterations` must be a number, or empty for the default; got 'many'."),
        ({"iterations": "0"}, "`iterations` must be"),
        ({"rank": "1e999"}, "`rank` must be a number"),
        ({"learning_rate": "nan"}, "`learning_rate` must be a number"),
    ):
        for start in (desk.plan, desk.erase):
            with pytest.raises((ValueError, TypeError)) as refused:
                start(visitor, {**FORM, **changes})
            assert str(refused.value).startswith(message)
    assert desk.jobs.of(visitor) is None
    assert not desk.output.exists()


def test_the_stack_is_kept_with_what_is_asked_of_it(desk: Desk, visitor: str, shelf: Shelf, ended: Wait) -> None:
    job = ended(desk.compare(visitor, {"no-a-cat": 0.5, "no-a-dog": 0}, COMPARISON))
    assert job.view.state == "done", job.view
    assert list(job.action.seeds) == [4]
    assert desk.scales(visitor) == {"no-a-cat": 0.5, "no-a-dog": 0.0}
    desk.rescale(visitor, "no-a-dog", 0.3)
    assert desk.scales(visitor) == {"no-a-cat": 0.5, "no-a-dog": 0.3}
    assert ended(desk.merge(visitor, desk.scales(visitor), {"name": "both"})).view.state == "done"
    assert ended(desk.merge(visitor, desk.scales(visitor), {"name": "both"})).action.name == "both-2"
    assert ended(desk.export(visitor, desk.scales(visitor), {"name": "both", "tool": "forge"})).view.file.is_file()


def test_names_of_other_folders_are_refused(desk: Desk, visitor: str, shelf: Shelf, tmp_path: Path) -> None:
    for name in ("../../secret", str(tmp_path), "no-a-bird"):
        for ask in (desk.compare, desk.calibrate, desk.measure, desk.merge, desk.export):
            with pytest.raises(ValueError, match=r"^There is no erasure"):
                ask(visitor, {name: 1.0}, {**COMPARISON, "name": "x", "tool": "comfyui"})
        with pytest.raises(ValueError, match=r"^There is no erasure"):
            desk.rescale(visitor, name, 1.0)
    for ask in (desk.merge, desk.export):
        with pytest.raises(ValueError, match="adapter name"):
            ask(visitor, {"no-a-cat": 1.0}, {"name": "../x/y", "tool": "comfyui"})
    other = new_visitor()
    with pytest.raises(ValueError, match=r"^There is no erasure 'no-a-cat' here; there are none yet\.$"):
        desk.compare(other, {"no-a-cat": 1.0}, COMPARISON)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["output"]


def test_numbers_of_a_form(desk: Desk, visitor: str, shelf: Shelf) -> None:
    for number in (None, 1.5):
        with pytest.raises(ValueError, match=rf"^Give a whole number; got {number}\.$"):
            desk.compare(visitor, {"no-a-cat": 1.0}, {**COMPARISON, "steps": number})
    with pytest.raises(ValueError, match="`scale` must be"):
        desk.compare(visitor, {"no-a-cat": float("nan")}, COMPARISON)
    with pytest.raises(ValueError, match="`seeds` is empty"):
        desk.compare(visitor, {"no-a-cat": 1.0}, {**COMPARISON, "seeds": 0})


def test_publishing_needs_a_yes_and_elsewhere_a_token(desk: Desk, visitor: str, shelf: Shelf) -> None:
    scales = {"no-a-cat": 1.0}
    with pytest.raises(ValueError, match=r"^Tick that it may be published"):
        desk.publish(visitor, scales, {**PUBLISHED, "sure": False})
    with pytest.raises(
        ValueError, match=r"^Give a token of your account that can write: this app uses nobody else's\.$"
    ):
        replace(desk, is_local=False).publish(visitor, scales, PUBLISHED)
    with pytest.raises(ValueError, match="`repo_id`"):
        desk.publish(visitor, scales, {**PUBLISHED, "repo_id": "x"})


def test_an_explicit_concept_shows_no_pictures(desk: Desk, visitor: str, shelf: Shelf, ended: Wait) -> None:
    job = ended(desk.erase(visitor, {**FORM, "concept": "nudity"}))
    assert job.view.state == "done", job.view
    assert job.view.picture is None
    assert any("explicit" in note for note in job.view.notes)
    with pytest.raises(ValueError, match=r"^No pictures: "):
        desk.compare(visitor, desk.scales(visitor), COMPARISON)
    asked: dict[str, Any] = {**COMPARISON, "explicit": True}
    assert ended(desk.compare(visitor, desk.scales(visitor), asked)).view.picture is not None


def test_lines() -> None:
    assert lines("a cat\n\n  a dog \n") == ["a cat", "a dog"]
    assert lines(None) == []
