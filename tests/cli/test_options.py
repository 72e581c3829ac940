"""Options become configurations, and texts become erasures with scales."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
from controls import must_fail
from made import made, with_provenance
from tiny import tiny_pipeline

from diffusers_esd import Erasure, ESDConfig, Recipe
from diffusers_esd.cli.options import (
    add_fields,
    add_output,
    check_output,
    given_fields,
    read_erasures,
    save,
    with_scale,
)
from diffusers_esd.run import RunConfig


def given(kind: type, values: list[str]) -> Any:
    """The configuration of a command line."""
    parser = argparse.ArgumentParser()
    add_fields(parser, kind)
    return kind(**given_fields(parser.parse_args(values), kind))


def test_options_are_the_fields_of_a_configuration() -> None:
    values = ["--group", ".*attn1.*", "--eta", "2", "--no-null-space", "--size", "64", "--lora-alpha", "3"]
    values += ["--preserve", "a dog", "a bus", "--erase-from", "an animal", "--stop-at-alignment", "-0.5"]
    assert given(ESDConfig, values) == ESDConfig(
        group=".*attn1.*", eta=2.0, null_space=False, size=64, lora_alpha=3.0, preserve=("a dog", "a bus"),
        erase_from="an animal", stop_at_alignment=-0.5,
    )  # fmt: skip
    assert given(ESDConfig, []) == ESDConfig()
    assert given(ESDConfig, ["--preserve", "vocabulary"]) == ESDConfig()
    assert given(ESDConfig, ["--preserve"]) == ESDConfig(preserve=())
    assert given(ESDConfig, ["--synonyms", "kitten", "kitty"]) == ESDConfig(synonyms=("kitten", "kitty"))
    assert given(ESDConfig, ["--anchor", "auto"]) == ESDConfig(anchor="auto")
    assert given(ESDConfig, ["--anchor", "an animal", ""]) == ESDConfig(anchor=("an animal", ""))
    assert given(RunConfig, ["--offload"]) == RunConfig(offload=True)
    assert given(RunConfig, []) == RunConfig()
    values = ["--output-dir", "runs", "--checkpoint-every", "50", "--keep-checkpoints", "3", "--resume", "latest"]
    assert given(RunConfig, values) == RunConfig(
        output_dir="runs", checkpoint_every=50, keep_checkpoints=3, resume="latest"
    )
    values = [
        "--output-dir",
        "runs",
        "--sample-every",
        "50",
        "--sample-prompts",
        "a cat",
        "a dog",
        "--report-to",
        "wandb",
    ]
    assert given(RunConfig, values) == RunConfig(
        output_dir="runs", sample_every=50, sample_prompts=("a cat", "a dog"), report_to="wandb"
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
        ("no-cat=", ("no-cat=", 1.0)),
        ("=1", ("=1", 1.0)),
        ("no-cat=nan", ("no-cat=nan", 1.0)),
    ],
)
def test_a_scale_stands_behind_the_last_equals_sign(text: str, expected: tuple[str, float]) -> None:
    assert with_scale(text) == expected


def test_erasures_and_recipes_are_read_with_their_scales(tmp_path: Path) -> None:
    cat, dog = (made(tiny_pipeline(), f"a {word}", rank=1).save_pretrained(tmp_path / word) for word in ("cat", "dog"))
    recipe = Recipe.of({cat: 0.8, dog: 0.5}).save(tmp_path)
    read = read_erasures([str(cat), f"{cat}=0.5", f"{recipe}=0.5"])
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
