"""Judging: every image is judged or the evaluation ends; findings are used again while nothing changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from controls import must_fail
from evaluated import Bright, small_suite
from PIL import Image

from diffusers_esd.evaluation.folder import Folder
from diffusers_esd.evaluation.judges.base import Finding, Judge, Picture
from diffusers_esd.evaluation.judging import judge_images

CASES = [prompt.case for prompt in small_suite().prompts]


class Silent(Bright):
    """Does not answer for the last image."""

    def __call__(self, pictures: Sequence[Picture]) -> list[tuple[Finding, ...]]:
        return super().__call__(pictures)[:-1]


class Broken(Bright):
    def __call__(self, pictures: Sequence[Picture]) -> list[tuple[Finding, ...]]:
        raise MemoryError("out of memory")


class Beside(Bright):
    """Bright is what is brighter than the base model's image."""

    name = "beside"

    def __call__(self, pictures: Sequence[Picture]) -> list[tuple[Finding, ...]]:
        return [
            (Finding("bright" if p.image.getpixel((0, 0)) > p.base.getpixel((0, 0)) else "dark", 1),) for p in pictures
        ]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    for i, case in enumerate(CASES):
        for method, grey in (("base", 100), ("no", 200 if i % 2 else 50)):
            folder.write_image(method, case, Image.new("RGB", (4, 4), (grey,) * 3))
    return folder


def judged(folder: Folder, judge: Judge, method: str = "no", **options: Any) -> dict[str, str]:
    prompts = small_suite().prompts.prompts
    found = judge_images(judge, method, prompts, folder, base="base", **{"depends": {}, "shown": False, **options})
    return {case: finding.label for case, (finding,) in found.items()}


def test_every_image_is_judged(folder: Folder) -> None:
    expected = {case: "bright" if i % 2 else "dark" for i, case in enumerate(CASES)}
    assert judged(folder, Bright()) == expected
    assert judged(folder, Bright(), "base") == dict.fromkeys(CASES, "dark")
    assert judged(folder, Beside()) == expected
    assert judged(folder, Beside(), "base") == dict.fromkeys(CASES, "dark"), "the base is beside itself"


def test_findings_are_used_again_until_something_changes(folder: Folder) -> None:
    first = judged(folder, Bright())
    again = Bright()
    assert judged(folder, again) == first
    assert again.seen == []
    for judge, depends in ((Bright(0.9), {}), (Bright(), {"prompts": "others"})):
        with must_fail("it must judge again"):
            judged(folder, judge, depends=depends)
            assert judge.seen == []
    assert set(judged(folder, Bright(0.9)).values()) == {"dark"}


def test_an_error_of_a_judge_is_raised_and_nothing_is_written(folder: Folder) -> None:
    with pytest.raises(MemoryError, match=r"^out of memory$"):
        judged(folder, Broken())
    with pytest.raises(RuntimeError, match=r"^bright or dark answered for 7 of 8 images\.$"):
        judged(folder, Silent())
    assert not (folder.path / "judgements").exists()
    with pytest.raises(ValueError, match=r"^bright or dark has no images to judge\.$"):
        judge_images(Bright(), "no", [], folder, base="base", depends={})


def test_damaged_images_are_listed_or_tolerated(folder: Folder) -> None:
    file = folder.images("no") / f"{CASES[2]}.png"
    content = file.read_bytes()
    file.write_bytes(content[:40])
    with pytest.raises(ValueError, match=rf"^1 of 8 images of 'no' are damaged, such as {file}\. Delete them"):
        judged(folder, Bright())
    assert judged(folder, Bright(), tolerated=1).keys() == {*CASES} - {CASES[2]}
    with pytest.raises(ValueError, match="1 of 8 images"):
        judged(folder, Bright())
    file.write_bytes(content)
    assert judged(folder, Bright()).keys() == {*CASES}, "what was drawn again is judged"


def test_a_damaged_base_leaves_out_the_case_and_a_missing_image_is_an_error(folder: Folder) -> None:
    (folder.images("base") / f"{CASES[0]}.png").write_bytes(b"")
    assert judged(folder, Bright(), tolerated=1).keys() == {*CASES[1:]}
    (folder.images("no") / f"{CASES[1]}.png").unlink()
    with pytest.raises(FileNotFoundError):
        judged(folder, Bright(), tolerated=8)
