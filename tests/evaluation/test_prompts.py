"""Prompts: checked when they are made, and read from CSV files whose columns have many names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from controls import must_fail

from diffusers_esd.evaluation.prompts import ALIASES, Prompt, PromptSet, read_prompts, repeated


def written(folder: Path, text: str) -> Path:
    file = folder / "asked.csv"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("column", ALIASES["seed"])
@pytest.mark.parametrize("text", ALIASES["prompt"])
def test_columns_are_found_by_every_name(text: str, column: str, tmp_path: Path) -> None:
    (prompt,) = read_prompts(written(tmp_path, f"{text},{column}\na cat,7\n"))
    assert prompt == Prompt(case="0", text="a cat", seed=7)


def test_everything_of_a_row_is_read(tmp_path: Path) -> None:
    names = "case_number,prompt,evaluation_seed,sd_guidance_scale,sd_image_width,height,negative_prompt"
    file = written(tmp_path, f'{names}\n12,"a cat, asleep",3.0,7.5,512.0,768,blurry\n13,,4,,,,\n')
    first, second = read_prompts(file, source="here", licence="CC0")
    assert first == Prompt(
        case="12", text="a cat, asleep", seed=3, guidance_scale=7.5, width=512, height=768, negative_prompt="blurry"
    )
    assert second == Prompt(case="13", text="", seed=4)


def test_fields_and_rows_are_chosen(tmp_path: Path) -> None:
    file = written(tmp_path, "prompt,seed,kind\na cat,1,animal\na bus,2,thing\n")

    def fields(row: Any) -> dict[str, Any] | None:
        return None if row["kind"] == "thing" else {"group": row["kind"]}

    found = read_prompts(file, fields=fields, name="mine", source="here", licence="CC0")
    assert found.prompts == (Prompt(case="0", text="a cat", seed=1, group="animal"),)
    digest = found.digest()
    assert found.record() == {"name": "mine", "source": "here", "licence": "CC0", "prompts": 1, "digest": digest}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt,number\na cat,1\n", r"for the seed: it may be called seed, evaluation_seed, sd_seed; the file"),
        ("words,seed\na cat,1\n", r"for the prompt: it may be called prompt, text, caption; the file has words,"),
        ("", r"no column for the prompt.*; the file has no columns\.$"),
        ("prompt,seed\na cat,1\na dog,x\n", r"asked\.csv, line 3: .*'x'"),
        ("prompt,seed\na cat,\n", r"asked\.csv, line 2: the seed is missing$"),
        ("prompt,seed\na cat,-1\n", r"asked\.csv, line 2: `seed` must be 0 or more, got -1"),
        ("prompt,seed,case\na cat,1,a/b\n", r"asked\.csv, line 2: `case` must be letters.*; got 'a/b'\.$"),
        ("prompt,seed,case\na cat,1,x\na dog,2,x\n", r"^The prompt set 'asked' has cases twice: x; each needs"),
        ("prompt,seed\n", r"^The prompt set 'asked' is empty; give at least one prompt\.$"),
        ("prompt,seed,width\na cat,1,16\n", r"line 2: `width` and `height` must be given together, got 16 and None\.$"),
        ("prompt,seed,guidance\na cat,1,-2\n", r"line 2: `guidance_scale` must be 0 or more, got -2"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_prompts(written(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^There is no file of prompts at .*nowhere\.csv\.$"):
        read_prompts(tmp_path / "nowhere.csv")


def test_every_image_has_its_own_seed_and_case() -> None:
    prompts = repeated([("a cat", {"group": "named"}), ("a dog", {})], 2, first_seed=10, prefix="x")
    assert [(p.case, p.text, p.seed, p.group) for p in prompts] == [
        ("x-0000", "a cat", 10, "named"),
        ("x-0001", "a cat", 11, "named"),
        ("x-0002", "a dog", 12, "prompts"),
        ("x-0003", "a dog", 13, "prompts"),
    ]


def test_the_digest_depends_on_every_field() -> None:
    prompt = Prompt(case="a", text="a cat", seed=1)
    first = PromptSet("one", (prompt,)).digest()
    assert first == PromptSet("another name", (prompt,), source="elsewhere").digest()
    for changes in ({"seed": 2}, {"labels": {"subject": "a cat"}}, {"negative_prompt": "x"}, {"group": "b"}):
        with must_fail(f"{changes} change it"):
            assert PromptSet("one", (replace(prompt, **changes),)).digest() == first


def test_a_set_is_cut_by_a_test() -> None:
    asked = PromptSet("x", tuple(repeated([("a cat", {}), ("a dog", {})], 1, first_seed=0, prefix="x")))
    assert [p.text for p in asked.where(lambda p: p.seed == 1)] == ["a dog"]
    with pytest.raises(ValueError, match="'x' is empty"):
        asked.where(lambda p: False)
