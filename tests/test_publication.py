"""Publication: the report goes to the Hub with the erasure; its picture only if it may be shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import local_hub
import pytest
from controls import must_fail
from evaluated import a_report
from local_hub import client
from made import made
from PIL import Image
from tiny import tiny_pipeline

from diffusers_esd import Erasure, Report
from diffusers_esd.files import digest
from diffusers_esd.report_rows import Column

PUSH = """
from diffusers_esd import Erasure
for name in {names!r}:
    Erasure.from_pretrained({folder!r} + "/" + name).push_to_hub("someone/" + name)
Erasure.from_pretrained({folder!r} + "/nude").push_to_hub("someone/asked", explicit_pictures=True)
"""


@pytest.fixture
def hub() -> Iterator[local_hub.Hub]:
    if huggingface_hub.__version__ < "2":
        pytest.skip("this version validates cards at a fixed address")
    with local_hub.running() as running:
        yield running


def saved(folder: Path, concept: str, *, with_report: bool = True) -> Erasure:
    erasure = made(tiny_pipeline(), concept, rank=2, group="esd-x")
    column = Column(erasure.name, (concept,), {"erasures": [{"weights": digest(erasure.weights)}]})
    report = a_report(columns=(a_report().columns[0], replace(column, name="no-a-cat")))
    report = replace(report, picture=Image.new("RGB", (4, 4), "red"))
    if with_report:
        erasure = erasure.with_report(report)
    erasure.save_pretrained(folder)
    return erasure


def test_reports_are_published(hub: local_hub.Hub, tmp_path: Path) -> None:
    cat = saved(tmp_path / "cat", "a cat")
    saved(tmp_path / "nude", "nudity")
    saved(tmp_path / "plain", "a cat", with_report=False)
    hub.repositories["someone/plain"] = {"report.json": b"old", "report.png": b"old"}
    client(hub, tmp_path, PUSH.format(folder=str(tmp_path), names=["cat", "nude", "plain"]))
    files = hub.repositories["someone/cat"]
    assert files["report.json"] == (tmp_path / "cat" / "report.json").read_bytes()
    assert Report.from_pretrained(tmp_path / "cat") == cat.report
    assert files["report.png"] == (tmp_path / "cat" / "report.png").read_bytes()
    card = files["README.md"].decode()
    assert "(report.png)" in card
    assert "██░░░░░░░░ 0.25" in card
    hidden = hub.repositories["someone/nude"]
    assert "report.png" not in hidden
    assert "(report.png)" not in hidden["README.md"].decode()
    assert "██░░░░░░░░ 0.25" in hidden["README.md"].decode()
    with must_fail("unless it is asked for"):
        assert "report.png" not in hub.repositories["someone/asked"]
    assert not {"report.json", "report.png"} & hub.repositories["someone/plain"].keys(), "a former report is deleted"
