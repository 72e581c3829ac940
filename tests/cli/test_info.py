"""The command `info`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made import with_provenance

from diffusers_esd import Erasure
from diffusers_esd.cli import main
from diffusers_esd.files import HEADER_KEY, write_safetensors


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["info", *arguments]) == 0
    return capsys.readouterr().out


def test_it_begins_with_what_a_person_wants_to_know(
    erasures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    erasure = with_provenance(Erasure.from_pretrained(erasures[0]), base_model="me/sd", alignments={"a cat": -0.5})
    lines = printed(capsys, str(erasure.save_pretrained(tmp_path / "no-cat"))).splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        "name", "concept", "base model", "group", "layers", "negative guidance", "training", "alignment", "outcome",
        "alignment over training", "made with",
    ]  # fmt: skip
    assert lines[:2] == ["name: no-a-cat", "concept: a cat"]
    assert "alignment: -0.50 (1: intact, 0: as without the concept's words, -1: target)" in lines
    assert any(line.startswith("outcome: a cat: alignment -0.50, target -1: the concept is weakened") for line in lines)
    assert "alignment over training: █▇▇▆▅▅▄▃" in lines, "from 1 down to -0.5, on a scale that ends at -1"
    assert lines[-1] == "made with: torch 2"
    assert main(["merge", *erasures, "-o", str(tmp_path / "both")]) == 0
    capsys.readouterr()
    merged = printed(capsys, str(tmp_path / "both"))
    assert "merged from: no-a-cat x 1, no-a-dog x 1\n" in merged
    assert "rank 4\n" in merged
    assert "alignment" not in merged, "nothing is claimed of a training"


def test_long_lists_are_in_the_json_alone(
    erasures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = with_provenance(Erasure.from_pretrained(erasures[0]), left_out={"too faint": ("conv_in", "conv_out")})
    folder = str(long.save_pretrained(tmp_path / "long"))
    assert "too faint" not in printed(capsys, folder)
    values = json.loads(printed(capsys, folder, "--json"))
    assert values == json.loads(json.dumps(long.to_dict()))


def test_a_recipe_is_shown_as_the_arguments_that_make_it(
    recipe: str, erasures: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert printed(capsys, recipe) == f"{erasures[0]}=0.8\n{erasures[1]}=1.0\n"
    assert json.loads(printed(capsys, recipe, "--json")) == json.loads(Path(recipe).read_text())["erasures"]


def test_former_files_are_read_and_damaged_ones_refused(
    erasures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    erasure = Erasure.from_pretrained(erasures[0])
    values, weights = erasure.to_dict(), dict(erasure.weights)
    del values["provenance"]["origin"], values["rank"]
    values["config"] |= {"offload": True}
    write_safetensors(tmp_path / "former.safetensors", weights, {HEADER_KEY: json.dumps(values)})
    assert json.loads(printed(capsys, str(tmp_path / "former.safetensors"), "--json"))["rank"] == 2
    values["provenance"]["history"] = [[1.0, "high"]]
    write_safetensors(tmp_path / "damaged.safetensors", weights, {HEADER_KEY: json.dumps(values)})
    assert main(["info", str(tmp_path / "damaged.safetensors")]) == 1
    assert "damaged.safetensors is damaged or of a newer version" in capsys.readouterr().err
    write_safetensors(tmp_path / "foreign.safetensors", weights, {"format": "pt"})
    assert main(["info", str(tmp_path / "foreign.safetensors")]) == 1
    assert "foreign.safetensors is not an erasure: 'diffusers_esd' is missing" in capsys.readouterr().err
