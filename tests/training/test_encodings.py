"""A checkpoint has the encoded prompts: a resumed training needs no text encoder, and has the same bits."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from controls import must_fail
from made import is_equal, with_provenance
from safetensors.torch import load_file, save_file
from tiny import tiny_flux, tiny_pipeline, tiny_xl

from diffusers_esd import Erasure, ESDTrainer, Limits
from diffusers_esd.training.encodings import ENCODINGS_NAME, Encodings

QUICK: dict[str, Any] = {"num_inference_steps": 4, "iterations": 6, "rank": 2, "learning_rate": 1e-2, "size": 16}
LIMITS = Limits(
    words=20, neighbours=4, pairs=8, contexts=4, loss_prompts=8, steps=2, trajectories=8,
    concept_trajectories=4, largest_leak=float("inf"), anchor_candidates=2,
)  # fmt: skip
BUILDERS: dict[str, Callable[[], Any]] = {"sd1": tiny_pipeline, "sdxl": tiny_xl, "flux": tiny_flux}


def train(pipe: Any, folder: Path, stop: int = 0, concept: str = "a cat", **options: Any) -> Erasure:
    def callback(progress: Any) -> str | None:
        return "stop" if progress.iteration == stop else None

    trainer = ESDTrainer(pipe, **{**QUICK, **options}, limits=LIMITS, output_dir=folder)
    return trainer.erase(concept, name="ours", callback=callback)


def same(a: Erasure, b: Erasure) -> bool:
    return is_equal(with_provenance(a, seconds=0.0), with_provenance(b, seconds=0.0))


def without_text_encoders(kind: str) -> Any:
    pipe = BUILDERS[kind]()
    for name in [name for name in pipe.components if name.startswith("text_encoder")]:
        setattr(pipe, name, None)
    return pipe


@pytest.mark.parametrize(("kind", "group"), [("sd1", "esd-u"), ("sdxl", "esd-x"), ("flux", "esd-x")])
def test_a_resumed_training_needs_no_text_encoder(kind: str, group: str, tmp_path: Path) -> None:
    options = {"group": group, "anchor": "auto"}
    expected = train(BUILDERS[kind](), tmp_path / "whole", **options)
    train(BUILDERS[kind](), tmp_path, stop=3, **options)
    resumed = train(without_text_encoders(kind), tmp_path, resume="latest", **options)
    assert same(resumed, expected)
    message = (
        r"^The text encoder is missing \(text_encoder=None\), and prompts must be encoded\. Load the pipeline with "
    )
    with pytest.raises(ValueError, match=message):
        train(without_text_encoders(kind), tmp_path / "new", **options)
    trainer = ESDTrainer(without_text_encoders(kind), **QUICK)
    with pytest.raises(ValueError, match=message):
        trainer.erase("a cat", dry_run=True)


def test_other_encodings_give_another_erasure(tmp_path: Path) -> None:
    """The control: the iterations take their prompts from the file."""
    options = {"group": "esd-x-strict", "preserve": ()}
    expected = train(tiny_pipeline(), tmp_path, **options, checkpoint_every=3, keep_checkpoints=9)
    path = tmp_path / "ours" / "checkpoint-3"
    file = path / ENCODINGS_NAME
    with_header = {"diffusers_esd": _header(file)}
    tensors = {key: value + 1 for key, value in load_file(file).items()}
    file.unlink()  # other checkpoints have the same file
    save_file(tensors, file, with_header)
    resumed = train(tiny_pipeline(), tmp_path / "other", **options, resume=path)
    with must_fail("other encodings"):
        assert same(resumed, expected)


def _header(file: Path) -> str:
    from diffusers_esd.files import read_header

    return read_header(file)["diffusers_esd"]


def test_they_are_written_once_and_belong_to_their_training(tmp_path: Path) -> None:
    options = {"group": "esd-x-strict", "preserve": ()}
    train(tiny_pipeline(), tmp_path, **options, checkpoint_every=2, keep_checkpoints=9)
    files = [tmp_path / "ours" / f"checkpoint-{n}" / ENCODINGS_NAME for n in (0, 2, 4, 6)]
    assert len({file.stat().st_ino for file in files}) == 1, "the same file on the disk"
    train(tiny_pipeline(), tmp_path / "other", **options, concept="a dog")
    other = tmp_path / "other" / "ours" / "checkpoint-6"
    shutil.copy(files[0], other / ENCODINGS_NAME)
    with pytest.raises(ValueError, match=r"checkpoint-6 is damaged \(encodings.safetensors is of another training\)"):
        train(tiny_pipeline(), tmp_path / "third", **options, concept="a dog", resume=other)


def test_without_links_each_checkpoint_has_a_file_of_its_own(tmp_path: Path) -> None:
    training = {"concept": ["a cat"]}
    encodings = Encodings(("", "a cat"), {"encoder_hidden_states": torch.randn(2, 3, 4)})
    for name in ("first", "linked", "alone"):
        (tmp_path / name).mkdir()
    first = encodings.write(tmp_path / "first", training, None)
    linked = encodings.write(tmp_path / "linked", training, tmp_path / "first")
    alone = encodings.write(tmp_path / "alone", training, tmp_path / "nowhere")
    assert first.stat().st_ino == linked.stat().st_ino != alone.stat().st_ino
    assert first.read_bytes() == alone.read_bytes()
    read = Encodings.read(tmp_path / "alone", training)
    assert read.prompts == encodings.prompts
    assert torch.equal(read.conditioning["encoder_hidden_states"], encodings.conditioning["encoder_hidden_states"])
