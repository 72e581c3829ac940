"""Publication: everything of an erasure that goes to the Hub, in one commit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from PIL.Image import Image
from torch import Tensor

from . import card, gallery, hub
from .config import ESDConfig
from .files import write_safetensors, write_text
from .kohya import to_kohya
from .provenance import Provenance
from .report import PICTURE_NAME, Report

_GALLERY_LABEL = "the report"


class Publishable(Protocol):
    """What is published: an `Erasure`."""

    @property
    def name(self) -> str: ...
    @property
    def config(self) -> ESDConfig | None: ...
    @property
    def provenance(self) -> Provenance: ...
    @property
    def rank(self) -> int: ...
    @property
    def report(self) -> Report | None: ...
    def layers(self) -> dict[str, tuple[Tensor, Tensor]]: ...
    def save_pretrained(self, folder: Path) -> Path: ...


def publish(
    erasure: Publishable,
    repo_id: str,
    *,
    private: bool | None,
    token: str | bool | None,
    pictures: Mapping[str, Image],
    explicit_pictures: bool,
    commit_message: str | None,
) -> str:
    """`Erasure.push_to_hub`, which describes the arguments.

    Returns:
        The address of the commit.
    """
    hub.check_repo_id(repo_id)
    name, provenance, report = erasure.name, erasure.provenance, erasure.report
    own = {} if report is None or report.picture is None else {_GALLERY_LABEL: report.picture}
    images = gallery.publishable({**pictures, **own}, provenance.concepts, explicit=explicit_pictures)
    has_picture = images.pop(_GALLERY_LABEL, None) is not None
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        erasure.save_pretrained(folder)
        if not has_picture:
            (folder / PICTURE_NAME).unlink(missing_ok=True)
        kohya = f"{name}.kohya.safetensors" if provenance.component == "unet" else None
        if kohya is not None:
            write_safetensors(folder / kohya, to_kohya(erasure.layers()), {"format": "pt"})
        text = card.erasure_card(
            name, repo_id, erasure.config, provenance,
            rank=erasure.rank, kohya=kohya, images=gallery.write_images(folder, images), report=report,
            report_picture=PICTURE_NAME if has_picture else None,
        )  # fmt: skip
        write_text(folder / "README.md", text)
        message = commit_message or f"Erasure of {', '.join(provenance.concepts)}"
        return hub.publish(folder, repo_id, private=private, token=token, message=message)
