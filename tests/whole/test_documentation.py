"""Every Python block of README and docs runs, in order, one namespace a page, and so does the notebook.

A block that needs weights, which tests cannot download, runs with the small model in their place, and a short training.
Null spaces are found from few prompts and trajectories: what is shown is that the code runs.
"""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import emoji_sd
import pytest
import torch
from controls import must_fail
from diffusers import StableDiffusionPipeline
from emoji_sd import load, settings

import diffusers_esd
from diffusers_esd import Erasure, ESDTrainer, Limits, stack

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
WITH_WEIGHTS = re.compile(r"^```python needs-weights\n(.*?)^```", re.MULTILINE | re.DOTALL)


FEW = Limits(words=40, pairs=20, trajectories=8, concept_trajectories=4, steps=2, largest_leak=float("inf"))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Smaller limits where none are given."""
    monkeypatch.setattr("diffusers_esd.training.trainer.Limits", lambda: FEW)


def run(text: str, name: str, kind: re.Pattern[str] = BLOCK) -> None:
    """Run the blocks of a page."""
    namespace: dict[str, object] = {"__name__": "page"}
    closed = len(BLOCK.findall(text)) + len(WITH_WEIGHTS.findall(text))
    assert text.count("```python") == closed, "a block is not closed"
    for block in kind.finditer(text):
        above = "\n" * text.count("\n", 0, block.start(1))  # So that an error names the page's line.
        exec(compile(above + block[1], name, "exec"), namespace)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(page.read_text(encoding="utf-8"), str(page))


@pytest.mark.usefixtures("few")
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emoji_sd, "settings", lambda *a, **b: {**settings(*a, **b), "iterations": 2})
    assert len(run_notebook(tmp_path, monkeypatch, steps=2).provenance.history) == 2


@pytest.mark.slow
def test_the_notebook_erases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_notebook(tmp_path, monkeypatch).provenance.alignment < 0, "the pizza is gone"


def run_notebook(folder: Path, monkeypatch: pytest.MonkeyPatch, steps: int = 20) -> Erasure:
    """Run the cells in a folder, with so many steps of each image. Returns the first erasure."""
    monkeypatch.chdir(folder)
    notebook = json.loads((ROOT / "examples" / "quickstart.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    namespace: dict[str, Any] = {"__name__": "notebook"}
    for number, cell in enumerate(cells):
        cell = re.sub(r'(num_inference_steps"?[=:] ?)20', rf"\g<1>{steps}", cell)
        exec(compile(cell, f"cell {number}", "exec"), namespace)
    erasure = namespace["erasure"]
    assert isinstance(erasure, Erasure)
    assert (folder / "no-mono").is_dir()
    assert namespace["both"].get_active_adapters() == ["no-pizza", "no-mono"]
    return erasure


@pytest.mark.parametrize("page", [PAGES[0]], ids=lambda page: page.name)
def test_blocks_that_need_weights_run_with_others(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    pipes = [load(torch.bfloat16), load(torch.bfloat16)]
    for pipe in pipes:
        monkeypatch.setattr(pipe, "to", lambda device, pipe=pipe: pipe)

    def from_pretrained(name: str, dtype: torch.dtype) -> StableDiffusionPipeline:
        assert dtype == torch.bfloat16
        asked.append(name)
        return pipes[len(asked) - 1]

    def own_stack(pipe: StableDiffusionPipeline, erasures: dict[str, float]) -> dict[str, float]:
        assert list(erasures) == ["no-nudity", "user/no-van-gogh"]
        return stack(pipe, {name: scale for name, scale in erasures.items() if "/" not in name})

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(StableDiffusionPipeline, "from_pretrained", from_pretrained)
    short = partial(ESDTrainer, iterations=2, num_inference_steps=2, null_space=False)
    monkeypatch.setattr(diffusers_esd, "ESDTrainer", short, raising=False)
    monkeypatch.setattr(diffusers_esd, "stack", own_stack, raising=False)
    run(page.read_text(encoding="utf-8"), str(page), WITH_WEIGHTS)
    assert asked == ["CompVis/stable-diffusion-v1-4"] * 2
    assert Erasure.from_pretrained(tmp_path / "no-nudity").provenance.concepts == ("nudity",)


@pytest.mark.parametrize(
    "text",
    ["```python\nx = 1\n```\nText.\n```python\nassert x == 2\n```\n", "```python\nx = 1\n"],
    ids=["a false block", "not closed"],
)
def test_a_page_that_is_wrong_is_seen(text: str) -> None:
    with must_fail("a page must run"):
        run(text, "page")


def test_there_are_blocks_to_run() -> None:
    assert sum(len(BLOCK.findall(page.read_text(encoding="utf-8"))) for page in PAGES) >= 3
