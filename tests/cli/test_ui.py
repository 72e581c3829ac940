"""The command `ui`."""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import torch
from controls import must_fail
from tiny import tiny_pipeline

from diffusers_esd.cli import main
from diffusers_esd.cli.ui import loading_code

CHOOSE = "error: Give a model, or --demo for the small one.\n"


@pytest.mark.parametrize("arguments", [["ui"], ["ui", "some/model", "--demo"]])
def test_it_needs_one_model(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    assert capsys.readouterr().err == CHOOSE


@pytest.mark.parametrize("package", ["gradio", "matplotlib"])
def test_without_its_packages_it_says_what_to_install(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.chdir(tmp_path)
    assert main(["ui", "--demo"]) == 1
    message = f'error: {package} is not installed: pip install "diffusers-esd[ui]".\n'
    assert capsys.readouterr().err == message
    assert not any(tmp_path.iterdir())


def test_without_the_small_model_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("diffusers_esd.cli.ui.find_spec", lambda name: None)
    assert main(["ui", "--demo"]) == 1
    message = 'error: `ui --demo` needs the small model: pip install "diffusers-esd[demo]".\n'
    assert capsys.readouterr().err == message


def test_an_unknown_judge_is_refused_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    port = str(free_port())
    assert main(["ui", "no-such/model", "--judge", "nobody", "-o", str(tmp_path), "--port", port]) == 1
    assert capsys.readouterr().err.startswith("error: There is no judge 'nobody'")


def loaded_by_help(command: str) -> list[str]:
    code = (
        "import sys; from diffusers_esd.cli import main\n"
        f"try: main([{command!r}, '--help'])\nexcept SystemExit: pass\n"
        "print([name for name in ('torch', 'gradio', 'matplotlib') if name in sys.modules])"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()


def test_help_is_light() -> None:
    lines = loaded_by_help("ui")
    assert lines[-1] == "[]"
    assert any("--demo" in line for line in lines)


def test_the_code_loads_the_same_model(model: str) -> None:
    pipe = tiny_pipeline()
    given = {"model": model, "variant": None, "revision": None, "model_config": None, "quantize": None}
    namespace: dict[str, object] = {}
    exec(loading_code(argparse.Namespace(**given), pipe), namespace)
    loaded = namespace["pipe"]
    assert type(loaded) is type(pipe)
    assert loaded.dtype == torch.float32
    options = argparse.Namespace(**{**given, "variant": "fp16", "revision": "v1"})
    assert 'variant="fp16", revision="v1"' in re.sub(r",\s+", ", ", loading_code(options, pipe))
    assert "# without the quantisation" not in loading_code(options, pipe)
    options.quantize = "int8"
    assert "\n# without the quantisation of --quantize int8\npipe = " in loading_code(options, pipe)


def test_a_port_that_cannot_be_had_is_refused_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["ui", "no-such/model", "--port", str(port), "-o", str(tmp_path / "app")]) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"error: The app cannot listen on 127.0.0.1, port {port} (")
    assert message.endswith("; give another --port.\n")
    assert main(["ui", "no-such/model", "--port", "70000", "-o", str(tmp_path / "app")]) == 1
    assert capsys.readouterr().err == "error: --port must be from 1 to 65535, got 70000.\n"
    assert not (tmp_path / "app").exists()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_it_serves_this_computer_until_it_is_ended(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "diffusers_esd", "ui", "--demo", "-o", str(tmp_path / "app"), "--port", str(port)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        try:
            printed = process.stdout.readline()
            assert printed.startswith(f"http://127.0.0.1:{port}/ "), printed
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as page:
                assert b"diffusers-esd" in page.read()
            bound = Path("/proc/net/tcp").read_text(encoding="utf-8").split()
            listening = [entry for entry in bound if entry.endswith(f":{port:04X}")]
            assert "0100007F" in "".join(listening)
            assert f"00000000:{port:04X}" not in listening
            with must_fail("an address of all networks would be seen"):
                assert f"0100007F:{port:04X}" not in listening
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 130
