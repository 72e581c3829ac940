"""The command line answers quickly, and an error has a message and an exit code."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from made import made
from tiny import tiny_pipeline

from diffusers_esd import Recipe
from diffusers_esd.cli import main

HEAVY = ("torch", "diffusers", "safetensors", "huggingface_hub")


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["info", "nowhere"], 1, "error: Nothing to read at nowhere: give a folder, a file, or "),
        (["merge", "nowhere", "-o", "x"], 1, "error: Nothing to read at nowhere"),
        (["preview", "model", "nowhere", "--prompt", "a cat", "-o", "x.png"], 1, "error: Nothing to read at nowhere"),
        (["preview", "model", "nowhere", "--prompt", "a cat", "-o", "no/x.png"], 1, "error: The folder no does not ex"),
        (["erase", "nowhere", "a cat", "-o", "x", "--eta", "-1"], 1, "error: `eta` must be "),
        (["export", "nowhere"], 2, "-o/--output"),
        (["nothing"], 2, "invalid choice"),
        ([], 2, "COMMAND"),
    ],
)
def test_errors_have_a_message_and_a_code(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main(arguments)
    except SystemExit as error:
        status = error.code  # type: ignore[assignment]
    assert status == code
    printed = capsys.readouterr()
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""


def test_a_missing_package_is_an_error_and_ctrl_c_has_its_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    errors = {1: ImportError('install it with pip install "diffusers-esd[eval]"'), 130: KeyboardInterrupt()}
    for code, error in errors.items():

        def fail(*arguments: object, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr("diffusers_esd.hub.locate", fail)
        assert main(["info", "anything"]) == code
    assert capsys.readouterr().err == 'error: install it with pip install "diffusers-esd[eval]"\n'


@pytest.mark.parametrize("arguments", [["--help"], ["erase", "--help"], ["recipe", "--help"]])
def test_help_is_quick_and_imports_no_torch(arguments: list[str]) -> None:
    code = f"import sys; from diffusers_esd.cli.main import main\ntry:\n    main({arguments})\nfinally:\n    " + (
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        printed = run(code)
        seconds.append(time.perf_counter() - started)
    assert printed.endswith("[]")
    assert min(seconds) < 0.5


def test_info_imports_no_torch(tmp_path: Path) -> None:
    folder = made(tiny_pipeline(), rank=2).save_pretrained(tmp_path / "no-cat")
    recipe = Recipe.of(folder).save(tmp_path)
    code = "import sys; from diffusers_esd.cli.main import main; print(main(['info', {!r}]), 'torch' in sys.modules)"
    for source in (folder, recipe):
        assert run(code.format(str(source))).endswith("0 False")


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "diffusers_esd.cli", "info", "nowhere"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: Nothing to read at nowhere")


def test_every_command_that_writes_an_erasure_keeps_a_finished_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is refused before anything is read: nothing else in these calls exists."""
    folder = str(made(tiny_pipeline(), rank=1).save_pretrained(tmp_path / "no-cat"))
    for arguments in (
        ["erase", "nowhere", "a cat"],
        ["refine", "nowhere", "nothing"],
        ["merge", "nothing"],
        ["import", "nothing.safetensors", "nowhere", "--concept", "a cat"],
    ):
        assert main([*arguments, "-o", folder]) == 1
        assert "contains a finished erasure: give another folder, or --force to replace it" in capsys.readouterr().err
        assert main([*arguments, "-o", folder, "--force"]) == 1
        assert "contains a finished erasure" not in capsys.readouterr().err
