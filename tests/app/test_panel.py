"""What is sent to a page: what has changed since it was shown, and nothing of others."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from PIL import Image

from diffusers_esd.app.desk import Desk
from diffusers_esd.app.folder import Shelf, new_visitor
from diffusers_esd.app.job import Job
from diffusers_esd.app.panel import Panel, guarded

NAMES = ("seen", "status", "cancel", "download", "picture", "text", "curves", "code", "stack")


@pytest.fixture
def panel(desk: Desk, tmp_path: Path) -> Panel:
    with gr.Blocks(analytics_enabled=False):
        return Panel(desk, gr.State(), gr.State({}), tmp_path / "downloads")


def shown(panel: Panel, visitor: str, seen: Any = None) -> dict[str, Any]:
    """What is sent, without what is not."""
    values = dict(zip(NAMES, panel.refresh(visitor, seen), strict=True))
    return {name: value for name, value in values.items() if value != gr.skip()}


class Show:
    title, code = "showing", "show()"

    def __init__(self, **fields: Any) -> None:
        self._fields = fields

    def run(self, pipe: Any, job: Job) -> None:
        job.show(**self._fields)


def test_only_changes_are_sent(panel: Panel, desk: Desk, visitor: str, shelf: Shelf, ended: Any) -> None:
    first = shown(panel, visitor)
    assert "Nothing runs yet" in first["status"]
    assert first["stack"] == {"no-a-cat": 1.0, "no-a-dog": 1.0}
    assert shown(panel, visitor, first["seen"]) == {}
    job = ended(desk.jobs.start(visitor, Show(picture=Image.new("RGB", (4, 4)), text="**done**")))
    second = shown(panel, visitor, first["seen"])
    assert "<img" in second["picture"]
    assert (second["text"], second["code"]["value"]) == ("**done**", "show()")
    assert shown(panel, visitor, second["seen"]) == {}
    job.show(now="still here")
    assert set(shown(panel, visitor, second["seen"])) == {"seen", "status", "cancel"}
    assert shown(panel, visitor)["picture"] == second["picture"], "a page that is loaded again gets everything"


def test_others_see_nothing(panel: Panel, desk: Desk, visitor: str, shelf: Shelf, ended: Any) -> None:
    ended(desk.jobs.start(visitor, Show(text="secret")))
    other = shown(panel, new_visitor())
    assert "secret" not in str(other)
    assert other["stack"] == {}
    assert shown(panel, None) == {}


def test_a_file_is_copied_to_an_address_that_nobody_can_guess(
    panel: Panel, desk: Desk, visitor: str, shelf: Shelf, tmp_path: Path, ended: Any
) -> None:
    file = shelf.erasure("no-a-cat") / "erasure.json"
    ended(desk.jobs.start(visitor, Show(file=file)))
    button = shown(panel, visitor)["download"]
    copy = Path(button["value"])
    assert copy.read_bytes() == file.read_bytes()
    assert copy.is_relative_to(tmp_path / "downloads")
    assert len(copy.parent.name) == 32
    assert button["label"] == "Download erasure.json"


def test_errors_are_messages() -> None:
    def fail() -> None:
        raise ValueError("It cannot be so.")

    with pytest.raises(gr.Error) as shown_error:
        guarded(fail)()
    assert shown_error.value.message == "It cannot be so."
    assert SimpleNamespace(x=guarded(lambda x: x + 1)(1)).x == 2
