"""A job as HTML."""

from __future__ import annotations

import base64
import io
import re
from types import SimpleNamespace

from controls import must_fail
from PIL import Image

from diffusers_esd.app.job import Job
from diffusers_esd.app.shown import figure, status

MEAN = '<img src=x onerror="x()">'


def test_every_text_is_escaped() -> None:
    job = Job("a", SimpleNamespace(title=MEAN, code="", run=None))
    job.show(state="failed", now=MEAN, notes=(MEAN,))
    html = status(job, 0)
    assert html.count("&lt;img src=x onerror=&quot;x()&quot;&gt;") == 3
    assert "<img" not in html
    assert "<img" not in figure(None, MEAN)
    assert "<b>Failed</b>" in html
    with must_fail("a tag would be seen"):
        assert "<b>" not in html


def test_a_bar_is_shown_while_it_runs() -> None:
    job = Job("a", SimpleNamespace(title="erasing", code="", run=None))
    assert "jobs of others before it: 2" in status(job, 2)
    job.show(state="running", share=0.25)
    assert '<progress max="1" value="0.250">' in status(job, 0)
    job.show(share=None)
    assert '<progress max="1">' in status(job, 0)
    job.show(state="done")
    assert "<progress" not in status(job, 0)
    assert "Nothing runs yet" in status(None, 0)


def test_an_image_is_in_the_page() -> None:
    image = Image.new("RGB", (8, 4), "red")
    html = figure(image, '"two" cats')
    assert 'alt="&quot;two&quot; cats"' in html
    data = re.search(r"base64,([^\"]+)", html)[1]
    again = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (again.size, again.format) == ((8, 4), "WEBP")
    assert figure(None, "x") == ""
