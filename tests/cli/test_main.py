"""The command line answers quickly, and an error has a message and an exit code."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from controls import must_fail
from huggingface_hub.errors import HTTPError
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
        (["preview", "model", "nowhere", "--prompt", "a cat", "-o", "x.doc"], 1, "error: --output must be an image, "),
        (["preview", "m", "nowhere", "--prompt", "", "-o", "x.png"], 2, "argument --prompt: `prompt` is empty: got ''"),
        (["preview", "m", "x=", "--prompt", "a", "-o", "x.png"], 2, "an erasure and its scale are written as no-cat=0"),
        (["preview", "m", "x", "--prompt", "a", "-o", "x.png", "--steps", "0"], 2, "--steps: must be a whole number, "),
        (["preview", "m", "x", "--prompt", "a", "-o", "x.png", "--multipliers", "inf"], 2, "must be finite"),
        (["preview", "m", "x", "--prompt", "a", "-o", "x.png", "--scales", "1"], 2, "unrecognized arguments: --scales"),
        (["stack", "m", "x", "--prompt", "a", "-o", "x.png"], 2, "invalid choice: 'stack'"),
        (["export", "nowhere", "-o", "x.bin"], 1, "error: `path` must end in .safetensors, got x.bin."),
        (["import", "nowhere.safetensors", "m", "--concept", "a", "-o", "x"], 1, "error: There is no file nowhere"),
        (
            ["import", "pyproject.toml", "m", "--concept", "a", "-o", "x"],
            1,
            "error: pyproject.toml is not a safetensors",
        ),
        (
            ["import", "x.safetensors", "m", "--concept", "a", "-o", "x", "--rank", "0"],
            2,
            "--rank: must be a whole num",
        ),
        (["bake", "m", "nowhere", "-o", "."], 1, "error: A baked pipeline must be saved in a new folder; . exists."),
        (["push", "nowhere", "no-cat"], 1, "error: `repo_id` must be 'user/name', got 'no-cat'."),
        (["erase", "nowhere", "", "-o", "x"], 2, "argument concept: `prompt` is empty: got ''; give the words of a"),
        (["erase", "nowhere", "a", "-o", "x", "--concept", " "], 2, "argument --concept: `prompt` is empty: got ' '"),
        (
            ["erase", "nowhere", "a", "-o", "x", "--name", "v1.5"],
            2,
            "The adapter name 'v1.5' contains a dot, which PEF",
        ),
        (
            ["erase", "nowhere", "a", "-o", "x", "--config", "no.yaml"],
            1,
            "error: There is no file no.yaml; give a .yam",
        ),
        (
            ["erase", "nowhere", "a", "-o", "x", "--anchor", "b", "c"],
            1,
            "error: `anchor` must have one prompt for each",
        ),
        (["erase", "nowhere", "a", "-o", "x", "--name", "keys"], 2, "argument --name: The adapter name 'keys' is"),
        (["erase", "nowhere", "a", "-o", "x", "--report-to", "me", "--output-dir", "y"], 1, "error: `report_to` must"),
        (["erase", "nowhere", "a", "-o", "x", "--device", "gpu"], 1, "gpu"),
        (["erase", "nowhere", "a", "-o", "x"], 1, "error: No model at nowhere: give a folder, a .safetensors file, or"),
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


def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """A help, in long lines."""
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.setenv("NO_COLOR", "1")
    with pytest.raises(SystemExit):
        main([*arguments, "--help"])
    return capsys.readouterr().out


def without_default(text: str) -> list[str]:
    """The options in a help that are neither required nor flags, and do not show a default."""
    usage, _, rest = text.partition("\n\n")
    names = []
    for entry in re.split(r"\n  (?=\S)", rest)[1:]:
        name = re.split(r"  |\n", entry)[0]
        options = [option for option in name.split(", ") if option.startswith("-")]
        required = f"[{options[0].split()[0]} " not in usage if options else f"[{name}]" not in usage
        is_flag = bool(options) and " " not in name.replace(", ", "")
        if not required and not is_flag and "(default: " not in entry:
            names.append(name)
    return names


COMMANDS = ("erase", "preview", "export", "import", "push", "calibrate", "refine", "merge", "bake", "recipe", "info",
            "evaluate", "study", "ui", "demo", "completion")  # fmt: skip


@pytest.mark.parametrize("command", [*COMMANDS, "study make", "study figure"])
def test_every_option_shows_its_default(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown(monkeypatch, capsys, *command.split())
    assert without_default(text) == []
    assert not re.search(r"`?None`?\b|by default", text)
    if command == "erase":
        with must_fail("a default is missing"):
            assert without_default(text.replace("(default: ", "(")) == []


def test_the_page_lists_every_command_and_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = re.findall(r"^    (\w+)(?:  |$)", shown(monkeypatch, capsys), re.M)
    assert sorted(listed) == sorted(COMMANDS)
    page = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| `(\w+)` \|", page, re.M)) == sorted(COMMANDS)
    assert re.findall(r"^\| (\d+) \|", page, re.M) == ["0", "1", "2", "130", "143"]
    for call in re.findall(r"^diffusers-esd (.*)$", page, re.M):
        command = call.split()[: 2 if call.startswith("study") else 1]
        options = set(re.findall(r"--[a-z-]+|(?<= )-[a-z]\b", call))
        known = set(re.findall(r"--?[a-z][a-z-]*", shown(monkeypatch, capsys, *command)))
        assert options <= known, call


def test_missing_packages_and_devices_are_named_before_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("diffusers_esd.training.trainer.find_spec", lambda name: None)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    for arguments, message in (
        (
            ["--optimizer", "adam8bit"],
            "`optimizer`='adam8bit' needs bitsandbytes: pip install \"diffusers-esd[8bit]\".",
        ),
        (["--device", "cuda"], "--device cuda: PyTorch does not find this device; leave out --device, or give cpu."),
    ):
        assert main(["erase", "nowhere", "a cat", "-o", "x", *arguments]) == 1
        assert capsys.readouterr().err == f"error: {message}\n"


def test_an_error_of_the_connection_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object) -> None:
        raise HTTPError("The read operation timed out")

    monkeypatch.setattr("diffusers_esd.hub.locate", fail)
    assert main(["info", "me/no-cat"]) == 1
    assert capsys.readouterr().err == "error: The read operation timed out\n"


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
