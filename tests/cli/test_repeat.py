"""The file beside an erasure repeats its command."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import torch
from controls import must_fail

from diffusers_esd import Erasure
from diffusers_esd.cli import main
from diffusers_esd.cli.fields import read_fields
from diffusers_esd.files import CONFIG_NAME

QUICK = ["--iterations", "2", "--num-inference-steps", "4", "--rank", "2", "--preserve", "--learning-rate", "0.01"]


def same(first: Path, second: Path) -> bool:
    """Whether two erasures have equal weights and settings."""
    a, b = Erasure.from_pretrained(first), Erasure.from_pretrained(second)
    equal = a.weights.keys() == b.weights.keys() and all(
        torch.equal(a.weights[key], b.weights[key]) for key in a.weights
    )
    return equal and a.config == b.config


def test_the_command_can_be_repeated(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    call = [
        "erase",
        model,
        "a cat",
        "-o",
        "first",
        "--concept",
        "a “café” 😀",
        "--seed",
        "3",
        "--offload",
        "--eta",
        "1.5",
    ]
    assert main([*call, "--group", ".*attn1.*", "--dtype", "float32", "--device", "cpu", *QUICK]) == 0
    text = Path("first", CONFIG_NAME).read_text(encoding="utf-8")
    command, _, _ = text.partition("\n")
    assert command.startswith("# diffusers-esd erase ")
    words = shlex.split(command.removeprefix("# diffusers-esd"))
    assert "--device" not in words
    assert main([*words, "--device", "cpu"]) == 0
    assert same(Path("first"), Path("first-again"))
    assert read_fields(Path("first-again", CONFIG_NAME)) == read_fields(Path("first", CONFIG_NAME))
    fields = read_fields(Path("first", CONFIG_NAME))
    assert (fields["offload"], fields["learning_rate"], fields["sample_prompts"]) == (True, 0.01, [])
    assert main([*words[:-4], "-o", "other", "--device", "cpu", *QUICK]) == 0
    with must_fail("other settings give another erasure"):
        assert same(Path("first"), Path("other"))


def test_each_of_several_concepts_has_the_file(model: str, tmp_path: Path) -> None:
    (tmp_path / "concepts.txt").write_text("a cat\na dog\n")
    folder = tmp_path / "out"
    call = ["erase", model, "--concepts", str(tmp_path / "concepts.txt"), "-o", str(folder), "--device", "cpu", *QUICK]
    assert main(call) == 0
    for name in ("no-a-cat", "no-a-dog"):
        assert read_fields(folder / name / CONFIG_NAME)["iterations"] == 2
        assert (folder / name / CONFIG_NAME).read_text().startswith(f"# diffusers-esd erase {model} 'a {name[-3:]}' ")


def test_another_erasure_in_the_folder_does_not_keep_the_file(model: str, tmp_path: Path) -> None:
    folder = tmp_path / "no-cat"
    assert main(["erase", model, "a cat", "-o", str(folder), "--device", "cpu", "--check", *QUICK]) == 0
    assert (folder / "check.png").is_file()
    assert (folder / CONFIG_NAME).is_file()
    Erasure.from_pretrained(folder).save_pretrained(folder)
    assert not (folder / CONFIG_NAME).exists()
