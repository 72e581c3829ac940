"""Texts become checked values and erasures with scales, and a folder keeps its finished erasure."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from controls import must_fail
from made import made, with_provenance
from tiny import tiny_pipeline

from diffusers_esd import Erasure, Recipe
from diffusers_esd.cli.options import (
    adapter_name,
    add_output,
    check_output,
    positive,
    prompt,
    read_erasures,
    save,
    with_scale,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no-cat", ("no-cat", 1.0)),
        ("no-cat=0.8", ("no-cat", 0.8)),
        ("no-cat=-.5", ("no-cat", -0.5)),
        ("me/no-cat@v1=2", ("me/no-cat@v1", 2.0)),
        ("eta=high/no-cat", ("eta=high/no-cat", 1.0)),
        ("eta=high/no-cat=0.5", ("eta=high/no-cat", 0.5)),
    ],
)
def test_a_scale_stands_behind_the_last_equals_sign(text: str, expected: tuple[str, float]) -> None:
    assert with_scale(text) == expected


@pytest.mark.parametrize("text", ["no-cat=", "=1", "no-cat=nan", "no-cat=high", "no-cat=0,8", "no-cat=1e", ""])
def test_a_missing_or_wrong_scale_is_an_error(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = f"an erasure and its scale are written as no-cat=0.8, got {text!r}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        with_scale(text)
    if text:
        (tmp_path / text).mkdir()
        assert with_scale(text) == ((text, 1.0) if text != "=1" else ("=1", 1.0)), "a folder may have such a name"


@pytest.mark.parametrize(
    ("kind", "good", "bad", "message"),
    [
        (positive, "16", "0", "must be a whole number, 1 or more; got '0'."),
        (positive, "1", "-2", "must be a whole number, 1 or more; got '-2'."),
        (positive, "1", "many", "must be a whole number, 1 or more; got 'many'."),
        (prompt, "a cat", " ", "`prompt` is empty: got ' '; give the words of a prompt."),
        (
            adapter_name,
            "no-cat",
            "v1.5",
            "The adapter name 'v1.5' contains a dot, which PEFT cannot store; use 'v1-5'.",
        ),
    ],
)
def test_values_are_checked_as_they_are_read(kind: Callable[[str], object], good: str, bad: str, message: str) -> None:
    assert str(kind(good)) == good
    with pytest.raises(argparse.ArgumentTypeError, match=f"^{re.escape(message)}$"):
        kind(bad)


def test_erasures_and_recipes_are_read_with_their_scales(tmp_path: Path) -> None:
    cat, dog = (made(tiny_pipeline(), f"a {word}", rank=1).save_pretrained(tmp_path / word) for word in ("cat", "dog"))
    recipe = Recipe.of({cat: 0.8, dog: 0.5}).save(tmp_path)
    read = read_erasures([(str(cat), 1.0), (str(cat), 0.5), (str(recipe), 0.5)])
    assert [(erasure.name, scale) for erasure, scale in read.items()] == [
        ("no-a-cat", 1.0), ("no-a-cat", 0.5), ("no-a-cat", 0.4), ("no-a-dog", 0.25),
    ]  # fmt: skip


def output(*values: str) -> argparse.Namespace:
    """The options of a folder for an erasure."""
    parser = argparse.ArgumentParser()
    add_output(parser)
    return parser.parse_args(["-o", *values])


def test_a_finished_erasure_is_replaced_only_if_forced(tmp_path: Path) -> None:
    erasure, folder = made(tiny_pipeline(), rank=1), str(tmp_path / "no-cat")
    check_output(output(folder))
    save(with_provenance(erasure, complete=False), output(folder))
    check_output(output(folder))
    save(erasure, output(folder))
    message = f"^{re.escape(folder)} contains a finished erasure: give another folder, or --force to replace it.$"
    with pytest.raises(FileExistsError, match=message):
        check_output(output(folder))
    check_output(output(folder, "--force"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileExistsError, match="contains something that is not an erasure"):
        check_output(output(str(tmp_path), "--force"))


def test_an_interrupted_erasure_never_replaces_a_finished_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "no-cat"
    finished = made(tiny_pipeline(), rank=1)
    interrupted = with_provenance(finished, complete=False, iterations=3)
    save(finished, output(str(folder)))
    capsys.readouterr()
    for iterations in (3, 4):  # the second one replaces the first
        save(with_provenance(interrupted, iterations=iterations), output(str(folder), "--force"))
        printed = capsys.readouterr().out.splitlines()
        assert printed == [
            f"interrupted: {folder} keeps its finished erasure, this one is saved beside it", f"{folder}-interrupted",
        ]  # fmt: skip
        assert Erasure.from_pretrained(f"{folder}-interrupted").provenance.iterations == iterations
    assert Erasure.from_pretrained(folder).provenance == finished.provenance
    save(finished, output(f"{folder}-interrupted"))
    (tmp_path / "no-cat-interrupted-2").mkdir()
    (tmp_path / "no-cat-interrupted-2" / "thesis.tex").write_text("years of work")
    save(interrupted, output(str(folder), "--force"))
    assert Erasure.from_pretrained(f"{folder}-interrupted-3").provenance == interrupted.provenance
    with must_fail("that one is finished"):
        assert Erasure.from_pretrained(f"{folder}-interrupted").provenance == interrupted.provenance
