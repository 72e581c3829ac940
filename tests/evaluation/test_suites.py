"""The suites that have a name: prompts in the words of the erasures, and what is missing is said early."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
from emoji_sd import load
from emoji_sd.recogniser import EmojiJudge
from evaluated import Brightness, Everything
from made import made

from diffusers_esd.evaluation.judges.weights import FOLDER
from diffusers_esd.evaluation.suites import PEOPLE, SUITES, SuiteName, suite_named


@pytest.fixture(scope="module")
def pipe() -> Any:
    return load()


def test_every_name_is_a_suite(pipe: Any) -> None:
    assert tuple(SUITES) == get_args(SuiteName)
    with pytest.raises(ValueError, match=r"^`suite` must be a Suite or one of quick, .*; got 'object'\.$"):
        suite_named("object", pipe, [])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unexpected keyword argument 'images'"):
        suite_named("quick", pipe, [], images=3)


def test_objects_are_asked_in_the_words_of_the_erasure(pipe: Any) -> None:
    asked = suite_named("objects", pipe, [made(pipe, "a church", rank=1)], [Everything()], images=3)
    concepts = {prompt.concept for prompt in asked.prompts}
    assert len(asked.prompts) == 30
    assert "a church" in concepts
    assert "church" not in concepts
    assert "garbage truck" in concepts, "a class that is not erased keeps its name"


def test_styles(pipe: Any) -> None:
    asked = suite_named("styles", pipe, [], [Brightness()], prompts=2, images=3)
    assert len(asked.prompts) == 5 * 2 * 3


I2P = """prompt,categories,sd_seed,sd_guidance_scale,sd_image_width,sd_image_height
a red house,sexual,7,7.5,512,512
a blue house,violence,8,7,512,768
"""


def test_nudity_asks_i2p_and_whether_people_stay(pipe: Any, tmp_path: Path) -> None:
    file = tmp_path / "i2p.csv"
    with pytest.raises(FileNotFoundError):
        suite_named("nudity", pipe, [], [Brightness()], prompts=file)
    file.write_text(I2P)
    asked = suite_named("nudity", pipe, [], [Brightness()], prompts=file)
    groups = {name: [prompt for prompt in asked.prompts if prompt.group == name] for name in asked.groups}
    assert {name: len(prompts) for name, prompts in groups.items()} == {"i2p": 2, "people": 100}
    assert [(prompt.text, prompt.seed, prompt.concept) for prompt in groups["i2p"]] == [
        ("a red house", 7, "nudity"),
        ("a blue house", 8, "nudity"),
    ]
    assert {(prompt.concept, prompt.labels["person"]) for prompt in groups["people"]} == {("", "person")}
    assert {prompt.text for prompt in groups["people"]} == set(PEOPLE)
    assert len({prompt.seed for prompt in groups["people"]}) == 100
    assert [judge.name for judge in asked.judges] == ["brightness"]
    assert asked.notes == ()


def test_nudity_says_that_nobody_looks_for_people_without_clip(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = tmp_path / "openai" / "clip-vit-large-patch14"
    clip.mkdir(parents=True)
    monkeypatch.setenv(FOLDER, str(tmp_path))
    (tmp_path / "i2p.csv").write_text(I2P)
    asked = suite_named("nudity", pipe, [], prompts=tmp_path / "i2p.csv")
    assert [judge.name for judge in asked.judges] == ["nudenet"]
    (note,) = asked.notes
    assert note.startswith(
        "Nobody judged whether people are still drawn: The CLIP model openai/clip-vit-large-patch14 "
        f"{clip} does not have a whole model ("
    )


def test_fidelity_needs_captions_and_real_images(pipe: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^The suite 'fidelity' needs `prompts`, a CSV file of captions"):
        suite_named("fidelity", pipe, [], [Brightness()])
    captions = tmp_path / "coco.csv"
    captions.write_text("case_number,prompt,evaluation_seed\n0,a dog on a bench,1\n")
    with pytest.raises(FileNotFoundError, match="real contains no images"):
        suite_named("fidelity", pipe, [], [Brightness()], prompts=captions, reference=tmp_path / "real")
    asked = suite_named("fidelity", pipe, [], [Brightness()], prompts=captions)
    assert [prompt.text for prompt in asked.prompts] == ["a dog on a bench"]
    assert asked.measures == ()


def test_attacks_have_targets_and_controls(pipe: Any) -> None:
    judge = EmojiJudge()
    asked = suite_named("attack", pipe, [made(pipe, "a cat", rank=1, size=32)], [judge], words={"a cat": ["a kitten"]})
    cases = {prompt.case for prompt in asked.prompts}
    assert {prompt.group for prompt in asked.prompts} == {"named", "other words", "another concept"}
    assert len({attack.name for attack in asked.attacks}) == len(asked.attacks) == 7
    for attack in asked.attacks:
        assert {*attack.targets} <= cases, "the base model draws what an attack learns from"
        assert {prompt.concept for prompt in attack.prompts} == {"a cat"}
    named = {prompt.case for prompt in asked.prompts if prompt.group == "named"}
    assert [{*attack.targets} <= named for attack in asked.attacks] == [True, False, True] * 2 + [True], (
        "the noise probe learns from none"
    )
    with pytest.raises(ValueError, match="asks about erasures"):
        suite_named("attack", pipe, [], [judge])
