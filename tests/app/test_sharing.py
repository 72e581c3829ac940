"""What a visitor does with their stack in the end: what the page shows as code is what happens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import local_hub
import pytest
import torch

from diffusers_esd import Erasure
from diffusers_esd.app.folder import Shelf
from diffusers_esd.app.job import Job, Jobs
from diffusers_esd.app.sharing import Exported, Merged, Published

Wait = Callable[[Job], Job]


def test_a_merge_is_its_code(shelf: Shelf, jobs: Jobs, visitor: str, ended: Wait) -> None:
    action = Merged(shelf, {"no-a-cat": 0.5, "no-a-dog": 1.0}, "both")
    job = ended(jobs.start(visitor, action))
    assert job.view.state == "done", job.view
    assert shelf.scales() == {"no-a-cat": 0.5, "no-a-dog": 1.0, "both": 0.0}
    merged = Erasure.from_pretrained(shelf.erasure("both"))
    assert merged.provenance.parts == (("no-a-cat", 0.5), ("no-a-dog", 1.0))
    exec(action.code, {})
    again = Erasure.from_pretrained(shelf.erasure("both"))
    assert all(torch.equal(again.weights[key], merged.weights[key]) for key in merged.weights)


def test_an_export_is_its_code(shelf: Shelf, jobs: Jobs, visitor: str, ended: Wait) -> None:
    action = Exported(shelf, {"no-a-cat": 0.5}, "mine", "comfyui")
    job = ended(jobs.start(visitor, action))
    assert job.view.state == "done", job.view
    content = job.view.file.read_bytes()
    assert job.view.file.name == "mine.comfyui.safetensors"
    job.view.file.unlink()
    exec(action.code, {})
    assert job.view.file.read_bytes() == content
    with pytest.raises(ValueError, match="adapter name"):
        Exported(shelf, {"no-a-cat": 0.5}, "../mine", "comfyui")
    with pytest.raises(ValueError, match="tool"):
        Exported(shelf, {"no-a-cat": 0.5}, "mine", "../x")


def test_only_a_repository_can_be_published_to(shelf: Shelf) -> None:
    for repo_id in ("", "name", "../x/y", "a/b/c", str(shelf.path)):
        with pytest.raises(ValueError, match="`repo_id` must be 'user/name'"):
            Published(shelf, {"no-a-cat": 1.0}, repo_id)


def test_publishing_is_its_code_and_the_token_is_not_shown(shelf: Shelf, tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
from diffusers_esd.app.folder import Shelf
from diffusers_esd.app.job import Job
from diffusers_esd.app.sharing import Published

shelf = Shelf(Path({str(shelf.path.parent)!r}), {shelf.path.name!r})
alone = Published(shelf, {{"no-a-cat": 1.0}}, "me/one", token="hf_local")
both = Published(shelf, {{"no-a-cat": 1.0, "no-a-dog": 0.5}}, "me/both", private=False, token="hf_local")
for action in (alone, both):
    assert "hf_local" not in action.code + repr(action)
    job = Job("a" * 32, action)
    action.run(None, job)
    assert job.view.now == "published", job.view
    assert action.repo_id in job.view.text
exec(both.code, {{}})
"""
    with local_hub.running() as hub:
        local_hub.client(hub, tmp_path / "home", script)
        assert hub.private == {"me/one"}
        record = json.loads(hub.repositories["me/one"]["erasure.json"])
        assert record["provenance"]["origin"] == "trained"
        assert json.loads(hub.repositories["me/both"]["erasure.json"])["provenance"]["origin"] == "merged"
        assert not [name for name in hub.repositories["me/both"] if name.endswith(".png")]
