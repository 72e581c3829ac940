"""YAML, JSON and TOML files are read, and a damaged one is named."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from diffusers_esd.cli.documents import read_document

VALUES = {"iterations": 5, "learning_rate": 1e-4, "preserve": ["a dog"]}
TEXTS = {
    "a.yaml": "iterations: 5\nlearning_rate: 1e-4\npreserve: [a dog]\n",
    "a.yml": "iterations: 5\nlearning_rate: 0.0001\npreserve:\n- a dog\n",
    "a.json": '{"iterations": 5, "learning_rate": 1e-4, "preserve": ["a dog"]}',
    "a.toml": 'iterations = 5\nlearning_rate = 1e-4\npreserve = ["a dog"]\n',
}


@pytest.mark.parametrize("name", TEXTS)
def test_the_formats_have_the_same_values(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(TEXTS[name])
    assert read_document(tmp_path / name) == VALUES


@pytest.mark.parametrize(("name", "kind"), [("a.yaml", "YAML"), ("a.json", "JSON"), ("a.toml", "TOML")])
def test_a_damaged_file_is_named(name: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{[")
    with pytest.raises(ValueError, match=rf"{name} is not {kind} \("):
        read_document(tmp_path / name)


def test_without_pyyaml_there_is_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.yaml").write_text("iterations: 5\n")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ImportError, match=r"a\.yaml needs PyYAML: pip install pyyaml\. Or write it as a \.json file\."):
        read_document(tmp_path / "a.yaml")
