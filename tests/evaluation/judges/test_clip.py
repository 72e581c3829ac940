"""CLIP: its arithmetic against the model's parts, and its judges on colours that a small model has learned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from controls import must_fail
from PIL.Image import Image, fromarray
from tiny_clip import COLOURS, SIDE, TEMPLATE, colour_of, picture, save_trained, save_untrained
from transformers import CLIPModel, CLIPProcessor

from diffusers_esd.evaluation.judges.clip import CLIPScore, CLIPSimilarity, CLIPZeroShot
from diffusers_esd.evaluation.judges.clip_model import CLIP

WORDS = tuple(COLOURS)


@pytest.fixture(scope="module")
def folder(once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    return once("clip", save_trained)


@pytest.fixture(scope="module")
def clip(folder: Path) -> CLIP:
    return CLIP(folder)


@pytest.fixture(scope="module")
def untrained(once: Callable[[str, Callable[[Path], object]], Path]) -> CLIP:
    return CLIP(once("clip-untrained", save_untrained))


def noise(seed: int, height: int = SIDE, width: int = 2 * SIDE) -> Image:
    generator = torch.Generator().manual_seed(seed)
    return fromarray(torch.randint(256, (height, width, 3), generator=generator, dtype=torch.uint8).numpy())


@torch.no_grad()
def cosine_of_parts(folder: Path, image: Image, text: str) -> float:
    """The cosine from the model's towers and projections."""
    model, processor = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)
    pixels = processor(images=image, return_tensors="pt").pixel_values
    tokens = processor(text=[text], return_tensors="pt")
    seen = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
    read = model.text_projection(model.text_model(**tokens).pooler_output)
    return torch.nn.functional.cosine_similarity(seen, read).item()


def test_a_score_is_the_cosine_of_image_and_prompt(clip: CLIP, folder: Path) -> None:
    images, texts = [noise(0), colour_of("apple")], ["a photo of a cat", ""]
    pictures = [picture(image, text) for image, text in zip(images, texts, strict=True)]
    found = CLIPScore(clip)(pictures)
    for (finding,), image, text in zip(found, images, texts, strict=True):
        assert finding.label == "clip_score"
        assert finding.score == pytest.approx(cosine_of_parts(folder, image, text), abs=1e-6)
    with must_fail("an image is scored with its own prompt"):
        assert found[0][0].score == pytest.approx(cosine_of_parts(folder, images[0], texts[1]), abs=1e-6)


def test_the_score_of_the_right_prompt_is_the_highest(clip: CLIP, untrained: CLIP) -> None:
    def right(clip: CLIP) -> int:
        score = CLIPScore(clip)
        rows = [[score([picture(colour_of(w, 20), TEMPLATE.format(v))])[0][0].score for v in WORDS] for w in WORDS]
        return sum(row.index(max(row)) == i for i, row in enumerate(rows))

    assert right(clip) == len(WORDS)
    with must_fail("random weights do not know colours"):
        assert right(untrained) == len(WORDS)


def test_a_judge_chooses_the_label_that_was_learned(clip: CLIP) -> None:
    judge = CLIPZeroShot(WORDS, template=TEMPLATE, clip=clip)
    found = judge([picture(colour_of(word, 20)) for word in WORDS])
    assert [finding.label for (finding,) in found] == list(WORDS)
    assert min(finding.score for (finding,) in found) > 0.9
    assert judge.knows("bird")
    assert not judge.knows("church")


def test_probabilities_are_the_models_softmax(clip: CLIP, folder: Path) -> None:
    images = [noise(1), colour_of("bird")]
    own = CLIPZeroShot(WORDS, template=TEMPLATE, clip=clip).probabilities(images)
    model, processor = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)
    texts = [TEMPLATE.format(word) for word in WORDS]
    with torch.no_grad():
        inputs = processor(text=texts, images=images, padding=True, truncation=True, return_tensors="pt")
        expected = model(**inputs).logits_per_image.softmax(1)
    torch.testing.assert_close(own, expected, atol=1e-5, rtol=1e-5)


def test_ranks_count_what_is_more_probable(clip: CLIP) -> None:
    judge = CLIPZeroShot(WORDS, template=TEMPLATE, clip=clip)
    images = [colour_of(word) for word in WORDS]
    order = judge.probabilities(images).argsort(1, descending=True).tolist()
    for number, word in enumerate(WORDS):
        assert judge.ranks(images, word) == [1 + row.index(number) for row in order]
    with pytest.raises(
        ValueError, match=r"^`label` must be one of 'person', 'apple', 'banana', 'bird'; got 'church'\.$"
    ):
        judge.ranks(images, "church")


def test_similarity_is_one_for_the_same_image_and_less_for_another_colour(clip: CLIP) -> None:
    red, darker, blue = colour_of("apple"), colour_of("apple", 20), colour_of("bird")
    found = CLIPSimilarity(clip)([picture(red, base=base) for base in (red, darker, blue)])
    same, near, far = (finding.score for (finding,) in found)
    assert same == pytest.approx(1, abs=1e-6)
    assert far < 0.5 < 0.9 < near < 1


def test_one_by_one_gives_what_a_batch_gives(clip: CLIP) -> None:
    pictures = [picture(noise(i), "a cat" * i, base=noise(i + 9)) for i in range(3)]
    for judge in (CLIPScore(clip), CLIPSimilarity(clip), CLIPZeroShot(WORDS, clip=clip)):
        batch = judge(pictures)
        assert [label for row in batch for label, _ in row] == [f.label for p in pictures for f in judge([p])[0]]
        alone = [f.score for p in pictures for f in judge([p])[0]]
        assert [f.score for row in batch for f in row] == pytest.approx(alone, abs=1e-5)


def test_the_record_has_model_scale_labels_and_template(clip: CLIP) -> None:
    assert CLIPScore(clip).record() == CLIPSimilarity(clip).record() == {**clip.record(), "scale": "cosine"}
    zero_shot = CLIPZeroShot(WORDS, clip=clip).record()
    assert (zero_shot["labels"], zero_shot["template"]) == (list(WORDS), "a photo of {}")
    assert zero_shot.items() >= clip.record().items()


def test_no_images_are_an_error(clip: CLIP) -> None:
    for judge in (CLIPScore(clip), CLIPSimilarity(clip), CLIPZeroShot(WORDS, clip=clip)):
        with pytest.raises(ValueError, match=r"^There is no image to judge; give at least one\.$"):
            judge([])


def test_an_error_of_the_model_is_raised(clip: CLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(CLIPModel, "forward", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        CLIPScore(clip)([picture(noise(0))])


@pytest.mark.parametrize("labels", [["cat"], [], ["cat", "cat"]])
def test_labels_must_be_two_and_different(labels: list[str], clip: CLIP) -> None:
    with pytest.raises(ValueError, match=r"^`labels` must be two or more, all different; got "):
        CLIPZeroShot(labels, clip=clip)


@pytest.mark.parametrize("template", ["a photo", "{} and {}"])
def test_a_template_needs_one_place(template: str, clip: CLIP) -> None:
    with pytest.raises(ValueError, match=r"^`template` must have one \{\} in the place of the label, got "):
        CLIPZeroShot(WORDS, template=template, clip=clip)
