"""Images: what is missing is drawn, by one process or two; attacks learn from the base model's images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from controls import must_fail
from evaluated import OPTIONS, small_suite
from PIL import Image
from tiny import tiny_pipeline

from diffusers_esd.evaluation.attacks.base import Attack
from diffusers_esd.evaluation.folder import Folder
from diffusers_esd.evaluation.images import batches, draw_images, pictures_of
from diffusers_esd.evaluation.judges.base import Picture
from diffusers_esd.evaluation.methods import Base, Draw
from diffusers_esd.evaluation.prompts import Prompt
from diffusers_esd.training.processes import Processes


class Suffix(Attack):
    """Says something more behind every prompt."""

    name = "suffix"
    prompts = (Prompt(case="suffix-0", text="a cat", seed=3, group="suffix", concept="a cat"),)

    def __init__(self, *targets: str, more: str = " dog") -> None:
        self.targets, self.more, self.saw = targets, more, list[Picture]()

    def record(self) -> dict[str, Any]:
        return {"more": self.more}

    @contextmanager
    def drawing(self, pipe: Any, draw: Draw, targets: Sequence[Picture]) -> Iterator[Draw]:
        self.saw += targets
        yield lambda prompts, **more: draw([replace(p, text=p.text + self.more) for p in prompts], **more)


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny_pipeline()


def draw(pipe: Any, folder: Folder, *attacks: Attack, batch_size: int = 3, **options: Any) -> None:
    draw_images(
        pipe, Base(), small_suite().prompts, attacks, folder, base="base", options={**OPTIONS, **options},
        batch_size=batch_size, processes=Processes(),
    )  # fmt: skip


def pixels(folder: Folder, case: str) -> Any:
    image = folder.read_image("base", case)
    assert image is not None
    return np.asarray(image, dtype=int)


def test_only_what_is_missing_is_drawn(pipe: Any, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    draw(pipe, folder)
    files = sorted(folder.images("base").glob("*.png"))
    assert [file.stem for file in files] == sorted(prompt.case for prompt in small_suite().prompts)
    times, first = [file.stat().st_mtime_ns for file in files], pixels(folder, "named-0000")
    files[4].unlink()
    draw(pipe, folder, batch_size=1)
    changed = [i for i, file in enumerate(files) if file.stat().st_mtime_ns != times[i]]
    assert changed == [4]
    assert abs(pixels(folder, "named-0000") - first).max() <= 1, "in another batch"
    with pytest.raises(ValueError, match="options differ"):
        draw(pipe, folder, eta=1.0)


def test_an_attack_draws_its_prompts_and_sees_its_targets(pipe: Any, tmp_path: Path) -> None:
    folder, attack = Folder(tmp_path), Suffix("named-0001", "named-0003")
    draw(pipe, folder, attack)
    assert [picture.prompt.case for picture in attack.saw] == ["named-0001", "named-0003"]
    assert (np.asarray(attack.saw[0].image) == pixels(folder, "named-0001")).all()
    with must_fail("the attack acts: the same seed without it is another image"):
        assert abs(pixels(folder, "suffix-0") - pixels(folder, "named-0003")).max() <= 1
    with pytest.raises(ValueError, match="attacks differ"):
        draw(pipe, folder, Suffix("named-0001", more=" bus"))


def test_wrong_targets_are_named(tmp_path: Path) -> None:
    folder, prompts = Folder(tmp_path), small_suite().prompts
    with pytest.raises(
        ValueError, match=r"^The attack 'suffix' learns from the case 'x', which is not in the prompts\.$"
    ):
        pictures_of(folder, "base", Suffix("x"), prompts)
    folder.write_image("base", "named-0000", Image.new("RGB", (2, 2)))
    (folder.images("base") / "named-0000.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"^The image of 'named-0000', from which 'suffix' learns, is damaged; delete"):
        pictures_of(folder, "base", Suffix("named-0000"), prompts)


def test_bars_are_left_as_they_were(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = tiny_pipeline()
    draw(pipe, Folder(tmp_path / "1"))
    assert capsys.readouterr().err == ""
    pipe.set_progress_bar_config(disable=False, ncols=70)
    draw(pipe, Folder(tmp_path / "2"))
    assert pipe._progress_bar_config == {"disable": False, "ncols": 70}
    assert "images, base: 100%" in capsys.readouterr().err


def test_batches() -> None:
    assert [list(part) for part in batches(range(5), 2)] == [[0, 1], [2, 3], [4]]
    assert list(batches([], 2)) == []
