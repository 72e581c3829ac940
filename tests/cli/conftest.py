"""A small pipeline in a folder, and erasures of it."""

from __future__ import annotations

import pytest
from made import made
from tiny import tiny_pipeline

from diffusers_esd.cli import main


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def erasures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root, pipe = tmp_path_factory.mktemp("erasures"), tiny_pipeline()
    both = made(pipe, "a cat", rank=2), made(pipe, "a dog", rank=2, seed=1)
    return [str(erasure.save_pretrained(root / erasure.name)) for erasure in both]


@pytest.fixture(scope="module")
def recipe(erasures: list[str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of a recipe, made by the command."""
    file = str(tmp_path_factory.mktemp("recipe") / "stack.json")
    assert main(["recipe", f"{erasures[0]}=0.8", erasures[1], "-o", file]) == 0
    return file
