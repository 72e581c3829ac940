"""`Panel`: the part of the page that shows a visitor's job. Needs the extra `ui`.

It asks once a second what has changed. A page keeps no results: a job belongs to the visitor, not to the page.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from .desk import Desk
from .job import Job, View, explained
from .shown import figure, status

_EVERY = 1.0  # seconds
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
"""Options of all events: no veil over what is shown, no name for other programs."""


class Panel:
    """What is shown of a job, and how a button starts one.

    Args:
        desk: What the page can do.
        visitor: The state with the visitor.
        stack: The state with the visitor's stack, which is read again when a job has ended.
        downloads: Folder of the files that browsers fetch.
    """

    def __init__(self, desk: Desk, visitor: gr.State, stack: gr.State, downloads: Path) -> None:
        self._desk, self._downloads = desk, downloads
        seen = gr.State()
        shown = gr.HTML(elem_id="status")
        with gr.Row():
            cancel = gr.Button("Cancel", variant="stop", size="sm", visible=False)
            download = gr.DownloadButton("Download", size="sm", visible=False)
        picture, text, curves = gr.HTML(elem_id="picture"), gr.Markdown(elem_id="text"), gr.HTML(elem_id="curves")
        code = gr.Code(
            label="The same in Python",
            language="python",
            interactive=False,
            wrap_lines=True,
            show_line_numbers=False,
            visible=False,
            elem_id="code",
        )
        self.inputs = [visitor, seen]
        self.outputs = [seen, shown, cancel, download, picture, text, curves, code, stack]
        cancel.click(guarded(desk.cancel), visitor, None, **QUIET)

    def keep_fresh(self) -> None:
        """Ask once a second what has changed."""
        gr.Timer(_EVERY).tick(self.refresh, self.inputs, self.outputs, **QUIET)

    def starts(self, button: gr.Button, start: Callable[..., Job], inputs: list[Any]) -> None:
        """Let a button start a job.

        Args:
            button: The button.
            start: Takes the visitor and the values of the inputs.
            inputs: Components of the form.
        """

        def clicked(visitor: str, seen: Any, *values: Any) -> list[Any]:
            start(visitor, *values)
            return self.refresh(visitor, seen)

        button.click(guarded(clicked), [*self.inputs, *inputs], self.outputs, **QUIET)

    def sets(self, slider: gr.Slider, keep: Callable[[str, float], None]) -> None:
        """Keep the value of a slider when it was moved.

        Args:
            slider: The slider.
            keep: Takes the visitor and the value.
        """
        slider.release(guarded(keep), [self.inputs[0], slider], None, **QUIET)

    def refresh(self, visitor: str | None, seen: Mapping[str, Any] | None) -> list[Any]:
        """Updates of all outputs: only of what has changed since it was shown.

        Args:
            visitor: The visitor; `None` if the page does not know it yet.
            seen: What was shown last; `None` if nothing was.
        """
        if visitor is None:
            return [gr.skip()] * len(self.outputs)
        job = self._desk.jobs.of(visitor)
        view, before = (View(), 0) if job is None else (job.view, self._desk.jobs.before(job))
        now = {"job": 0 if job is None else job.number, "before": before, **view.changes}
        if seen == now:
            return [gr.skip()] * len(self.outputs)
        is_new = seen is None or seen["job"] != now["job"]
        has_ended = job is not None and job.has_ended

        def if_changed(update: Callable[[], Any], *names: str) -> Any:
            changed = is_new or any((seen or {}).get(name) != now.get(name) for name in names)
            return update() if changed else gr.skip()

        return [
            now,
            status(job, before),
            gr.update(visible=job is not None and not has_ended),
            if_changed(lambda: self._download(view.file), "file"),
            if_changed(lambda: figure(view.picture, "images without and with erasures"), "picture"),
            if_changed(lambda: view.text, "text"),
            if_changed(lambda: figure(view.curves, "loss and alignment over the training"), "curves"),
            if_changed(lambda: gr.update(value="" if job is None else job.action.code, visible=job is not None)),
            if_changed(lambda: self._desk.scales(visitor), "state"),
        ]

    def _download(self, file: Path | None) -> Any:
        """The button for a file, of which browsers get a copy under an address that nobody can guess."""
        if file is None or not file.is_file():
            return gr.update(visible=False, value=None)
        copy = self._downloads / secrets.token_hex(16) / file.name
        copy.parent.mkdir(parents=True)
        shutil.copyfile(file, copy)
        return gr.update(visible=True, value=str(copy), label=f"Download {file.name}")


def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose errors are messages on the page."""

    def call(*values: Any) -> Any:
        try:
            return function(*values)
        except Exception as error:
            raise gr.Error(explained(error), title="This does not work", print_exception=False) from error

    return call
