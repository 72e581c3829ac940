"""How an erasure is displayed: short lines as text; in HTML all text escaped, with its image in it."""

from __future__ import annotations

import re
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO

from controls import must_fail
from made import made, with_provenance
from PIL import Image
from tiny import tiny_pipeline

from diffusers_esd.notebook import as_html

HOSTILE = "<script>alert('x')</script> & \"quotes\""


class Reader(HTMLParser):
    """Collects tags and text as a browser sees them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_all_text_is_escaped() -> None:
    html = as_html(HOSTILE, {HOSTILE: HOSTILE}, Image.new("RGB", (2, 2)))
    read = Reader(html)
    assert set(read.tags) == {"div", "strong", "table", "tr", "th", "td", "img"}
    assert read.text == [HOSTILE] * 3
    with must_fail("text that is not escaped becomes a tag"):
        assert "script" not in Reader(HOSTILE).tags


def test_the_image_is_in_it() -> None:
    html = as_html("no-cat", {}, Image.new("RGB", (8, 4), "red"))
    content = re.search(r"src='data:image/png;base64,([^']+)'", html)
    assert content is not None
    image = Image.open(BytesIO(b64decode(content[1])))
    assert (image.size, image.getpixel((0, 0))) == ((8, 4), (255, 0, 0))
    assert "<img" not in as_html("no-cat", {}, None)


def test_what_an_erasure_says_of_itself() -> None:
    erasure = with_provenance(made(tiny_pipeline()), base_model="someone/model", concepts=("a <cat>",))
    text = " ".join(Reader(erasure._repr_html_()).text)
    for words in ("no-a-cat", "a <cat>", "someone/model", "-0.50 (1: intact, 0: as without", "esd-u", "rank 4"):
        assert words in text
