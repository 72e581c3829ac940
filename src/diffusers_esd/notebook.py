"""How an erasure is displayed: as short lines, and in a notebook as a table with its picture."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from html import escape
from io import BytesIO

from PIL import Image

from .config import ESDConfig
from .provenance import Provenance


def as_text(name: str, config: ESDConfig | None, provenance: Provenance, rank: int) -> str:
    """A few lines, none of them long.

    Args:
        name: Name of the erasure.
        config: The configuration it was trained with; `None` for a merged or imported one.
        provenance: Where it comes from and how its training went.
        rank: Rank in every layer.
    """
    group = "" if config is None else f" {config.group!r}"
    alignment = "unknown" if provenance.alignment is None else f"{provenance.alignment:.2f}"
    lines = {
        "name": repr(name),
        "concepts": ", ".join(map(repr, provenance.concepts)),
        "base": repr(provenance.base_model),
        "weights": f"{provenance.origin}{group}, {provenance.layers} layers, rank {rank}, alignment {alignment}",
    }
    return "Erasure(\n" + "".join(f"  {key}: {_shortened(text)}\n" for key, text in lines.items()) + ")"


def as_html(title: str, rows: Mapping[str, str], image: Image.Image | None) -> str:
    """A table and an image below it, in one piece of HTML. All text is escaped.

    Args:
        title: The heading.
        rows: Text by the name of its row.
        image: The image, which is embedded as a PNG.
    """
    cells = "".join(
        f"<tr><th style='text-align: left'>{escape(key)}</th><td style='text-align: left'>{escape(text)}</td></tr>"
        for key, text in rows.items()
    )
    picture = "" if image is None else f"<img alt='{escape(title)}' src='{_data_url(image)}'>"
    return f"<div><strong>{escape(title)}</strong><table>{cells}</table>{picture}</div>"


def _data_url(image: Image.Image) -> str:
    content = BytesIO()
    image.save(content, format="PNG")
    return f"data:image/png;base64,{b64encode(content.getvalue()).decode()}"


def _shortened(text: str, width: int = 160) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."
