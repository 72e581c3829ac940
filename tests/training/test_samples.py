"""Images while a training runs: what they show, and that the training does not notice."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from controls import must_fail
from made import is_equal, with_provenance
from PIL import Image, ImageChops
from tiny import style_adapter, tiny_pipeline

from diffusers_esd import Erasure, ESDTrainer, Progress
from diffusers_esd.pictures.draw import draw
from diffusers_esd.pictures.grid import beside

QUICK: dict[str, Any] = {
    "group": "esd-x-strict", "num_inference_steps": 4, "iterations": 5, "rank": 2, "learning_rate": 5e-2,
    "preserve": (),
}  # fmt: skip
NAMES = ["iteration-4.png", "iteration-5.png"]


def same(a: Erasure, b: Erasure) -> bool:
    return is_equal(with_provenance(a, seconds=0.0), with_provenance(b, seconds=0.0))


def equal(a: Image.Image, b: Image.Image) -> bool:
    return a.size == b.size and ImageChops.difference(a, b).getbbox() is None


def test_they_show_both_models_and_change_nothing(tmp_path: Path) -> None:
    plain = tiny_pipeline()
    style_adapter(plain)
    expected = ESDTrainer(plain, **QUICK).erase("a cat", name="ours")
    pipe = tiny_pipeline()
    style_adapter(pipe)
    torch.manual_seed(3)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    trainer = ESDTrainer(pipe, **QUICK, output_dir=tmp_path, sample_every=4, sample_prompts=["a dog"])
    erasure = trainer.erase("a cat", name="ours")
    assert same(erasure, expected)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]
    files = sorted((tmp_path / "ours" / "samples").iterdir())
    assert [file.name for file in files] == NAMES
    prompts, seeds, options = ["a dog"], [0, 1], {"num_inference_steps": 25}
    erased = draw(pipe, prompts, seeds, **options)
    erasure.remove(pipe)
    base = draw(pipe, prompts, seeds, **options)
    last = Image.open(files[-1]).convert("RGB")
    assert equal(last, beside(prompts, seeds, base, erased, "iteration 5", 192)), "the base has the user's style"
    with must_fail("the erasure does something"):
        assert equal(last, beside(prompts, seeds, base, base, "iteration 5", 192))


def test_models_that_are_offloaded_come_back_for_the_drawing(tmp_path: Path) -> None:
    moves: list[str] = []
    pipe = tiny_pipeline()
    to = pipe.vae.to

    def recorded(device: Any) -> Any:
        moves.append(str(device))
        return to(device)

    pipe.vae.to = recorded
    expected = ESDTrainer(tiny_pipeline(), **QUICK).erase("a cat")
    assert same(ESDTrainer(pipe, **QUICK, offload=True, output_dir=tmp_path, sample_every=5).erase("a cat"), expected)
    # To the CPU, to the device and back for the one picture, and back at the end: here all of them are the CPU.
    assert moves == ["cpu"] * 4
    assert (tmp_path / "no-a-cat" / "samples" / "iteration-5.png").is_file()


def test_the_prompts_are_the_concepts_and_what_they_are_erased_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, drawn = tiny_pipeline(), []

    def record(called: Any, prompts: Any, seeds: Any, **options: Any) -> list[list[Image.Image]]:
        assert called is pipe
        drawn.append((tuple(prompts), tuple(seeds), options))
        return [[Image.new("RGB", (1, 1)) for _ in seeds] for _ in prompts]

    monkeypatch.setattr("diffusers_esd.training.samples.draw", record)
    options = {**QUICK, "erase_from": "an animal", "size": 16, "output_dir": tmp_path, "sample_every": 3}
    ESDTrainer(pipe, **options).erase("a cat")
    call = (("an animal", "a cat"), (0, 1), {"num_inference_steps": 25, "height": 16, "width": 16})
    assert drawn == [call] * 3, "the base model once, and the student at 3 and at the end"


def test_a_pipeline_that_cannot_draw_is_refused(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    pipe.register_modules(vae=None)
    message = r"^`sample_every`=2 needs a pipeline that can draw, and this one has no autoencoder \(vae=None\)\. Load"
    with pytest.raises(ValueError, match=message):
        ESDTrainer(pipe, **QUICK, output_dir=tmp_path, sample_every=2)
    assert ESDTrainer(pipe, **QUICK).erase("a cat").provenance.complete, "the control"


def test_a_resumed_training_draws_the_same_and_a_finished_one_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(folder: str, stop: int = 0) -> dict[str, bytes]:
        def callback(progress: Progress) -> str | None:
            return "stop" if progress.iteration == stop else None

        run = {"output_dir": tmp_path / folder, "sample_every": 4, "resume": "latest"}
        ESDTrainer(tiny_pipeline(), **QUICK, **run).erase("a cat", callback=callback)
        return {file.name: file.read_bytes() for file in (tmp_path / folder / "no-a-cat" / "samples").iterdir()}

    expected = train("whole")
    assert sorted(expected) == NAMES
    assert sorted(train("resumed", stop=4)) == NAMES[:1], "an interruption is not an end"
    (tmp_path / "resumed" / "no-a-cat" / "samples" / ".iteration-5.png.1.tmp").write_text("cut off")
    assert train("resumed") == expected
    monkeypatch.setattr("diffusers_esd.training.samples.draw", lambda *_: pytest.fail("nothing is drawn twice"))
    assert train("resumed") == expected
