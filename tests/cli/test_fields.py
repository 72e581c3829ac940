"""Options and files become configurations, and the help is in the words of a shell."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from controls import must_fail
from made import made
from tiny import tiny_pipeline

from diffusers_esd import ESDConfig, merge
from diffusers_esd.cli.fields import add_config, add_fields, configurations, given_fields, read_fields
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


def configured(*values: str) -> tuple[ESDConfig, RunConfig]:
    """Both configurations of a command line."""
    parser = argparse.ArgumentParser()
    add_config(parser)
    for kind in (ESDConfig, RunConfig):
        add_fields(parser, kind)
    return configurations(parser.parse_args(values))


YAML = """
group: esd-x
learning_rate: 1e-3  # YAML 1.1 reads this as a text
iterations: 20
null_space: no
preserve: [a dog, "a bus"]
size: null
output_dir: runs
checkpoint_every: 5
"""


@pytest.mark.parametrize("name", ["run.yaml", "run.yml", "run.json"])
def test_a_file_has_the_fields_of_both_configurations_and_options_count_more(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(YAML)
    if name.endswith(".json"):
        values = {"group": "esd-x", "learning_rate": 1e-3, "iterations": 20, "null_space": False, "size": None}
        values |= {"preserve": ["a dog", "a bus"], "output_dir": "runs", "checkpoint_every": 5}
        file.write_text(json.dumps(values))
    expected = ESDConfig(
        group="esd-x", learning_rate=1e-3, iterations=20, null_space=False, preserve=("a dog", "a bus")
    )
    assert configured("--config", str(file)) == (expected, RunConfig(output_dir="runs", checkpoint_every=5))
    given = ["--group", "full", "--null-space", "--preserve", "vocabulary", "--checkpoint-every", "9"]
    config, run = configured("--config", str(file), *given)
    assert config == ESDConfig(group="full", learning_rate=1e-3, iterations=20)
    assert run == RunConfig(output_dir="runs", checkpoint_every=9)
    assert configured() == (ESDConfig(), RunConfig())


def test_the_file_of_the_documentation_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text(encoding="utf-8")
    (tmp_path / "run.yaml").write_text(page.partition("```yaml\n")[2].partition("```")[0])
    config, run = configured("--config", str(tmp_path / "run.yaml"), "--iterations", "1000")
    assert config == ESDConfig(group="esd-x", iterations=1000, learning_rate=1e-3, preserve=("a dog", "a bus"))
    assert run == RunConfig(output_dir="runs", checkpoint_every=50)


def test_a_saved_erasure_gives_its_settings(tmp_path: Path) -> None:
    erasure = made(tiny_pipeline(), group="esd-x", rank=2)
    folder = erasure.save_pretrained(tmp_path / "no-cat")
    for source in (folder, folder / "erasure.json"):
        assert configured("--config", str(source)) == (erasure.config, RunConfig())
    assert configured("--config", str(folder), "--rank", "3")[0].rank == 3
    merged = merge(erasure).save_pretrained(tmp_path / "merged")
    with pytest.raises(ValueError, match=r"erasure.json is of an erasure that was merged, which does not have"):
        read_fields(merged)
    (folder / "erasure.json").write_text(json.dumps({"config": {"eta": "high"}, "provenance": {}}))
    with pytest.raises(ValueError, match=r"erasure.json is damaged or of a newer version"):
        read_fields(folder)


@pytest.mark.parametrize(
    ("name", "content", "kind", "message"),
    [
        ("a.yaml", "learningrate: 1", TypeError, "has the unknown field learningrate; expected group, eta, "),
        ("a.yaml", "1: 2", TypeError, "has the unknown field 1; expected group, eta, "),
        ("a.json", '{"Eta": 1, "x": 2}', TypeError, "has the unknown field Eta, x; expected group, eta, "),
        ("a.yaml", "- eta", ValueError, "must contain fields with values, such as `iterations: 500`; got ['eta']."),
        ("a.yaml", "", ValueError, "must contain fields with values, such as `iterations: 500`; got None."),
        ("a.yaml", "eta: [", ValueError, "a.yaml is not YAML ("),
        ("a.yaml", "eta: !!python/object/apply:os.getcwd []", ValueError, "a.yaml is not YAML ("),
        ("a.json", "{", ValueError, "a.json is not JSON ("),
        (
            "a.toml",
            "eta = 1",
            ValueError,
            "a.toml is not a .yaml or .json file; give one, or the folder",
        ),
        ("a.yaml", "eta: high", TypeError, "`eta` must be a number, got 'high' of type str."),
        ("a.yaml", "eta: -1", ValueError, "`eta` must be 0 or more, got -1."),
        ("a.yaml", "preserve: a dog", TypeError, "`preserve` must be a list of prompts"),
        ("a.yaml", "offload: 1", TypeError, "`offload` must be True or False, got 1."),
    ],
)
def test_wrong_files_are_refused(name: str, content: str, kind: type[Exception], message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(kind, match=re.escape(message)):
        configured("--config", str(tmp_path / name))


def test_a_missing_file_and_a_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"^There is no file .*erasure.json; give a .yaml or .json file, or "):
        read_fields(tmp_path)
    (tmp_path / "a.yaml").write_text("eta: 1")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ImportError, match=r"a.yaml needs PyYAML: pip install pyyaml. Or write it as a .json file.$"):
        read_fields(tmp_path / "a.yaml")


def shown(kind: type) -> str:
    """The help of all fields, in one line."""
    parser = argparse.ArgumentParser(formatter_class=lambda prog: argparse.HelpFormatter(prog, width=10_000))
    add_fields(parser, kind)
    return " ".join(parser.format_help().split())


def test_the_help_is_in_the_words_of_a_shell() -> None:
    learned, runs = shown(ESDConfig), shown(RunConfig)
    for text in (
        "to this norm. (default: does not clip)",
        "(default: --rank, a factor of 1)",
        "(default: 0 for esd-x and esd-x-strict with a null space, and 10 otherwise)",
        "a list of prompts, or vocabulary, the words of",
        "An empty list is the paper's plain training. (default: vocabulary)",
        "Prompt that the concept is erased towards: the target is",
        'With --eta 0 the concept is replaced by the anchor. (default: "")',
        '(hat from "a cowboy")',
        "fewer than --iterations. (default: 0)",
        "(default: 0.0001)",
        "(default: --null-space)",
        "in pixels. (default: the model's own)",
        "(default: none)",
    ):
        assert text in learned
    for text in (
        "Iterations between two checkpoints. One more is written",
        'or returns "stop". (default: 100)',
        "--no-data-parallel trains alone in each process.",
        "(default: --data-parallel)",
        "(default: starts from the beginning, and refuses an --output-dir that has checkpoints of this name)",
        'tensorboard (pip install "diffusers-esd[tracking]"), wandb, or another',
    ):
        assert text in runs
    for word in ("`", "None", "True", "False", "()", "tuple"):
        assert word not in learned + runs, word
    with must_fail("the documentation of the classes is in the words of Python"):
        assert "None" not in str(ESDConfig.__doc__)
