"""A job as HTML. Images are part of it, so that no server keeps a copy of them under an address."""

from __future__ import annotations

import base64
import io
from html import escape

from PIL.Image import Image

from .job import Job, View

_WORDS = {
    "waiting": "Waiting",
    "running": "Running",
    "done": "Done",
    "stopped": "Cancelled",
    "failed": "Failed",
}


def status(job: Job | None, before: int) -> str:
    """What happens at the moment, with a bar.

    Args:
        job: The visitor's job; `None` if there was none.
        before: Number of other jobs that come first.
    """
    if job is None:
        return '<p class="esd-idle">Nothing runs yet. Results appear here.</p>'
    view = job.view
    now = f"jobs of others before it: {before}" if view.state == "waiting" and before else view.now
    notes = "".join(f'<p class="esd-note">{escape(note)}</p>' for note in view.notes)
    return (
        f'<div class="esd-status esd-{view.state}" role="status"><p><b>{_WORDS[view.state]}</b>: '
        f"{escape(job.action.title)}</p><p>{escape(now)}</p>{_bar(view)}{notes}</div>"
    )


def figure(image: Image | None, label: str) -> str:
    """An image in the page; nothing if there is none.

    Args:
        image: The image (PIL).
        label: What it shows, for those who cannot see it.
    """
    if image is None:
        return ""
    content = io.BytesIO()
    image.save(content, format="WEBP", quality=90)
    data = base64.b64encode(content.getvalue()).decode()
    return f'<img class="esd-image" alt="{escape(label)}" src="data:image/webp;base64,{data}">'


def _bar(view: View) -> str:
    if view.state != "running":
        return ""
    value = "" if view.share is None else f' value="{view.share:.3f}"'
    return f'<progress max="1"{value}></progress>'
