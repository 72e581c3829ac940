"""A shell completes commands, options, values and files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from controls import must_fail

from diffusers_esd.cli import main
from diffusers_esd.cli.completion import SHELLS


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_has_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("diffusers-esd", "calibrate", "learning-rate", "esd"):
        assert word in script


def completed(script: Path, folder: Path, *words: str) -> list[str]:
    """What bash offers for the last word."""
    line = " ".join(words)
    code = f"""
source {script}
COMP_WORDS=({" ".join(words[:-1])} "{words[-1]}") COMP_CWORD={len(words) - 1} COMP_LINE="{line}" COMP_POINT={len(line)}
_shtab_diffusers_esd
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    run = subprocess.run(["bash", "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return run.stdout.split()


def test_bash_completes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    (tmp_path / "prompts.yaml").write_text("")

    def offered(*words: str) -> list[str]:
        return completed(tmp_path / "script", tmp_path, "diffusers-esd", *words)

    assert set(offered("re")) == {"refine", "recipe"}
    assert "--learning-rate" in offered("erase", "--learn")
    assert "cosine" in offered("erase", "--lr-scheduler", "c")
    assert "prompts.yaml" in offered("erase", "--prompts", "pro")
    assert "prompts.yaml" in offered("info", "pro")
    with must_fail("there is no such command"):
        assert offered("xyz")


def test_without_shtab_there_is_a_remedy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 1
    message = 'error: `completion` needs shtab: pip install "diffusers-esd[completion]".\n'
    assert capsys.readouterr().err == message
