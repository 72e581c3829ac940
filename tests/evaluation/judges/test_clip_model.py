"""A CLIP model: its vectors against the model's parts, its record, and where it is looked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from controls import must_fail
from tiny_clip import SIDE, colour_of, save_trained, save_untrained
from transformers import CLIPModel, CLIPProcessor

from diffusers_esd.evaluation.judges.clip_model import CLIP
from diffusers_esd.evaluation.judges.weights import FOLDER, MissingWeightsError

Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="module")
def folder(once: Once) -> Path:
    return once("clip", save_trained)


@pytest.fixture(scope="module")
def clip(folder: Path) -> CLIP:
    return CLIP(folder)


@torch.no_grad()
def test_vectors_are_those_of_the_models_parts(clip: CLIP, folder: Path) -> None:
    model, processor = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)
    image, text = colour_of("bird"), "a cat"
    pixels = processor(images=image, return_tensors="pt").pixel_values
    seen = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
    read = model.text_projection(model.text_model(**processor(text=[text], return_tensors="pt")).pooler_output)
    for own, expected in ((clip.images([image]), seen), (clip([image]), seen), (clip.texts([text]), read)):
        torch.testing.assert_close(own, expected / expected.norm(), rtol=1e-5, atol=1e-6)
    with must_fail("an image is not its text"):
        torch.testing.assert_close(clip.images([image]), clip.texts([text]), rtol=0.1, atol=0.1)
    assert clip.scale == pytest.approx(model.logit_scale.exp().item())


def test_a_text_that_is_too_long_is_cut_off(clip: CLIP) -> None:
    long, longer = ("a cat " * n for n in (40, 41))
    assert torch.equal(clip.texts([long]), clip.texts([longer]))


def test_the_record_tells_models_apart(clip: CLIP, folder: Path, once: Once) -> None:
    record = clip.record()
    assert (record["model"], record["package"], record["image_size"]) == (folder.name, "transformers", SIDE)
    assert record == CLIP(folder).record()
    assert record["sha256"] != CLIP(once("clip-untrained", save_untrained)).record()["sha256"]
    assert clip.name == f"clip-{folder.name}"


def test_missing_weights_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    message = r"openai/clip-vit-large-patch14 is in no local folder.*; or pass `allow_download=True`\.$"
    with pytest.raises(MissingWeightsError, match=message):
        CLIP()
    with pytest.raises(MissingWeightsError, match=r"does not have a whole model"):
        CLIP(tmp_path)
    with pytest.raises(
        MissingWeightsError, match=r"me/clip could not be downloaded; are its id and the connection right\?$"
    ):
        CLIP("me/clip", allow_download=True)


def test_a_model_is_found_in_the_folder_of_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "me").mkdir()
    (tmp_path / "me" / "clip").symlink_to(folder)
    with pytest.raises(MissingWeightsError):
        CLIP("me/clip")
    monkeypatch.setenv(FOLDER, str(tmp_path))
    found = CLIP("me/clip").record()
    assert found["sha256"] == CLIP(folder).record()["sha256"]
    assert found["model"] == "me/clip"
