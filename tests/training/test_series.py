"""Many concepts, an erasure each: as one by one, in whatever order they are trained and whatever fails."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from controls import must_fail
from launched import Launcher
from made import is_equal, made, with_provenance
from pipelines import same, state_of
from tiny import style_adapter, tiny_pipeline

from diffusers_esd import Erasure, ESDConfig, ESDTrainer, erase_each
from diffusers_esd.run import RunConfig
from diffusers_esd.training.series import Outcome, check_each, read_concepts, table

CONCEPTS = ("a cat", "a dog", "a rocket")
QUICK: dict[str, Any] = {
    "group": "esd-x-strict", "num_inference_steps": 4, "iterations": 3, "rank": 2, "learning_rate": 1e-2,
    "preserve": (),
}  # fmt: skip


def check_saved(folder: Path, concepts: tuple[str, ...] = CONCEPTS) -> None:
    """Assert that each erasure is that of a training by itself, bit for bit."""
    for concept in concepts:
        saved = Erasure.from_pretrained(folder / f"no-{concept.replace(' ', '-')}")
        alone = ESDTrainer(tiny_pipeline(), **QUICK).erase(concept)
        assert is_equal(*(with_provenance(erasure, seconds=0.0, base_model="") for erasure in (saved, alone)))


def statuses(outcomes: list[Outcome]) -> list[str]:
    return [outcome.status for outcome in outcomes]


def test_each_concept_gets_the_erasure_of_a_training_by_itself(tmp_path: Path) -> None:
    pipe, told = tiny_pipeline(), []
    outcomes = erase_each(pipe, CONCEPTS, tmp_path, **QUICK, report=told.append)
    assert statuses(outcomes) == ["trained"] * 3
    assert told == outcomes
    assert [outcome.concept for outcome in outcomes] == list(CONCEPTS)
    check_saved(tmp_path)
    with must_fail("another concept has another erasure"):
        cat, dog = (Erasure.from_pretrained(outcome.folder) for outcome in outcomes[:2])
        assert all(torch.equal(weight, dog.weights[key]) for key, weight in cat.weights.items())


def test_what_is_there_is_not_trained_again(tmp_path: Path) -> None:
    erase_each(tiny_pipeline(), CONCEPTS[:1], tmp_path, **QUICK)
    before = (tmp_path / "no-a-cat" / "erasure.json").stat()
    outcomes = erase_each(tiny_pipeline(), CONCEPTS[:2], tmp_path, **QUICK, check=True)
    assert statuses(outcomes) == ["there", "trained"]
    assert (tmp_path / "no-a-cat" / "erasure.json").stat() == before
    assert re.fullmatch(r"alignment \S+, target -1: .*", outcomes[0].text)
    assert Erasure.from_pretrained(tmp_path / "no-a-dog").picture is not None
    with pytest.raises(
        FileExistsError, match=r"no-a-cat contains another erasure: `eta` is 2.0, there 1.0\. Give its v"
    ):
        erase_each(tiny_pipeline(), CONCEPTS, tmp_path, **QUICK, eta=2.0)
    with pytest.raises(
        ValueError, match=r"no-a-cat was trained on \S+, whose weights are not this pipeline's; give an"
    ):
        erase_each(tiny_pipeline(seed=1), CONCEPTS, tmp_path, **QUICK)
    assert not (tmp_path / "no-a-rocket").exists()


def test_the_pipeline_is_left_as_it_was(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    style_adapter(pipe)
    before = state_of(pipe)
    erase_each(pipe, CONCEPTS[:2], tmp_path, **QUICK)
    same(before, state_of(pipe))
    assert list(pipe.unet.peft_config) == ["style"]


def test_a_concept_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    runs, folder = tmp_path / "runs", tmp_path / "erasures"
    ESDTrainer(tiny_pipeline(), **QUICK, output_dir=runs).erase("a dog", callback=lambda _: "stop")
    pipe = tiny_pipeline()
    outcomes = erase_each(pipe, CONCEPTS, folder, **QUICK, output_dir=runs)
    assert statuses(outcomes) == ["trained", "failed", "trained"]
    assert re.match(r"FileExistsError: .*no-a-dog contains checkpoints of an earlier training: go", outcomes[1].text)
    assert sorted(path.name for path in folder.iterdir()) == ["no-a-cat", "no-a-rocket"]
    assert not getattr(pipe.unet, "peft_config", {})
    assert statuses(erase_each(pipe, CONCEPTS, folder, **QUICK, output_dir=runs, resume="latest")) == [
        "there", "trained", "there",
    ]  # fmt: skip
    check_saved(folder)


def test_ctrl_c_ends_all_and_they_go_on_later(tmp_path: Path) -> None:
    pipe, calls = tiny_pipeline(), []
    run: dict[str, Any] = {"output_dir": tmp_path / "runs", "resume": "latest"}
    whole = 0

    def press(*_: object) -> None:
        calls.append(1)
        if whole and len(calls) == whole + whole // 2 + 4:
            os.kill(os.getpid(), signal.SIGINT)

    pipe.unet.register_forward_pre_hook(press)
    erase_each(pipe, CONCEPTS[:1], tmp_path / "counted", **QUICK)
    whole = len(calls)
    calls.clear()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        outcomes = erase_each(pipe, CONCEPTS, tmp_path / "erasures", **QUICK, **run)
    finally:
        signal.signal(signal.SIGINT, before)
    assert statuses(outcomes) == ["trained", "interrupted", "not started"]
    assert [path.name for path in (tmp_path / "erasures").iterdir()] == ["no-a-cat"]
    assert statuses(erase_each(tiny_pipeline(), CONCEPTS, tmp_path / "erasures", **QUICK, **run)) == [
        "there", "trained", "trained",
    ]  # fmt: skip
    check_saved(tmp_path / "erasures")


def in_a_process(root: Path) -> tuple[list[Outcome], list[Outcome]]:
    """The outcomes, and those that this process was told of."""
    told: list[Outcome] = []
    return erase_each(tiny_pipeline(), CONCEPTS, root, **QUICK, report=told.append), told


def test_processes_share_the_concepts(launcher: Launcher, tmp_path: Path) -> None:
    first, second = launcher.run(tmp_path / "messages", in_a_process, root=tmp_path / "erasures")
    assert first[0] == second[0]
    assert statuses(first[0]) == ["trained"] * 3
    assert [[outcome.concept for outcome in told] for _, told in (first, second)] == [["a cat", "a rocket"], ["a dog"]]
    check_saved(tmp_path / "erasures")


# What is refused before a model is loaded.


@pytest.mark.parametrize(
    ("concepts", "options", "run", "error", "message"),
    [
        (["a cat", "A  cat!"], {}, {}, ValueError, "'a cat' and 'A  cat!' would have the same name, 'no-a-cat'; rewor"),
        (["a cat", "a cat"], {}, {}, ValueError, "'a cat' and 'a cat' would have the same name"),
        ([], {}, {}, ValueError, "`concepts` is empty; give at least one."),
        (["a cat", " "], {}, {}, ValueError, "`concept` is empty: got ' '"),
        (["a cat", 3], {}, {}, TypeError, "`concept` must be a string, got 3"),
        (["a cat"], {"anchor": ["a", "b"]}, {}, ValueError, "`anchor` must have one prompt for each of 1 concepts"),
        (["a cat"], {}, {"resume": "x/checkpoint-1"}, ValueError, "`resume` must be 'latest' or None for several conc"),
        (["a cat"], {}, {"output_dir": "{here}"}, ValueError, "`output_dir`, for checkpoints, must be another folder"),
        (["a dog"], {}, {}, FileExistsError, "no-a-dog contains something that is not an erasure"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    concepts: Any, options: dict[str, Any], run: dict[str, Any], error: type, message: str, tmp_path: Path
) -> None:
    (tmp_path / "no-a-dog").mkdir()
    (tmp_path / "no-a-dog" / "file").write_text("x")
    run = {name: value.format(here=tmp_path) for name, value in run.items()}
    with pytest.raises(error, match=re.escape(message)):
        check_each(concepts, tmp_path, ESDConfig(**options), RunConfig(**run))
    assert check_each(["a cat"], tmp_path, ESDConfig(), RunConfig()) == {}, "the control"


def test_an_erasure_that_is_not_complete_is_trained_again(tmp_path: Path) -> None:
    erasure, config = made(tiny_pipeline()), made(tiny_pipeline()).config
    for complete in (False, True):
        with_provenance(erasure, complete=complete).save_pretrained(tmp_path / "no-a-cat")
        found = check_each(["a cat"], tmp_path, config, RunConfig())
        assert list(found) == (["a cat"] if complete else [])


def test_concepts_are_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "concepts.txt"
    file.write_bytes("\ufeff# painters\nVan Gogh\n\n  Claude Monet \r\n  # more\nÉdouard Manet".encode())
    assert read_concepts(file) == ("Van Gogh", "Claude Monet", "Édouard Manet")
    for content, message in (
        (b"a cat\n# x\na cat\n", r"concepts.txt has 'a cat' in lines 1 and 3; remove one of them\.$"),
        (b"# nothing\n", r"concepts.txt has no concepts; write one a line\.$"),
        (b"\xff\xfe\x00", r"concepts.txt is not a text file in UTF-8 \("),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_concepts(file)
    with pytest.raises(FileNotFoundError, match=r"^There is no file .*nowhere\.txt; give a text file with one conc"):
        read_concepts(tmp_path / "nowhere.txt")


def test_the_table_has_a_line_for_each() -> None:
    outcomes = [
        Outcome(concept="a cat", folder=Path("all/no-a-cat"), status="trained", text="reached", seconds=12.4),
        Outcome(concept="Van Gogh", folder=Path("all/no-van-gogh"), status="not started"),
    ]
    assert table(outcomes).splitlines() == [
        "concept   folder           status       seconds  outcome",
        "a cat     all/no-a-cat     trained      12       reached",
        "Van Gogh  all/no-van-gogh  not started  0        ",
    ]
