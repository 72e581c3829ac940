"""The small model's vocabulary, tokens and tools."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from controls import must_fail
from emoji_sd import OBJECTS, STYLES, WEIGHTS, Judge, Rates, class_of, draw, load, phrase, some_pairs
from emoji_sd.recogniser import EmojiJudge
from emoji_sd.vocabulary import all_captions, captions

from diffusers_esd.evaluation.judges.base import Picture
from diffusers_esd.evaluation.prompts import Prompt


def test_captions_are_those_of_the_model() -> None:
    assert captions("cat", "mono") == (
        "a cat in mono style",
        "a cat",
        "cat",
        "an animal in mono style",
        "an animal",
        "art in mono style",
        "",
    )
    assert phrase("owl", "noto") == "an owl in noto style"
    assert len(OBJECTS) == len(set(OBJECTS)) == 40
    assert class_of("grapes") == "food"


def test_every_word_is_one_token() -> None:
    tokenizer = load().tokenizer
    words = {word for caption in all_captions() for word in caption.split()}
    assert all(len(tokenizer(word).input_ids) == 3 for word in words)
    with must_fail("another word is several tokens"):
        assert len(tokenizer("zebra").input_ids) <= 3


def test_weights_are_small_and_attributed() -> None:
    files = [path for path in WEIGHTS.rglob("*") if path.is_file() and path.name != "judge.safetensors"]
    assert sum(path.stat().st_size for path in files) < 20_000_000
    text = Path(WEIGHTS.parent / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert all(word in text for word in ("twemoji", "noto", "fluentui-emoji", "emojitwo", "CC BY 4.0", "Apache"))


def test_the_judge_of_an_evaluation_sees_what_the_judge_sees() -> None:
    pipe, judge = load(), EmojiJudge()
    seen = [("cat", "mono"), ("dog", "noto"), ("key", "mono"), ("pizza", "noto")]
    images = draw(pipe, [phrase(word, style) for word, style in seen], steps=10)
    probabilities = Judge.from_pretrained()(images)
    pictures = [Picture(Prompt(case="x", text="", seed=0), image, image) for image in pipe.numpy_to_pil(
        (images.permute(0, 2, 3, 1).numpy() + 1) / 2
    )]  # fmt: skip
    found = judge(pictures)
    for i, (thing, style) in enumerate(found):
        assert thing.label == phrase(list(OBJECTS)[probabilities.objects[i].argmax()])
        assert style.label == f"art in {list(STYLES)[probabilities.styles[i].argmax()]} style"
        assert thing.score == pytest.approx(probabilities.objects[i].max().item(), abs=0.02)
    rights = [phrase(word) == thing.label for (word, _), (thing, _) in zip(seen, found, strict=True)]
    assert sum(rights) >= 3, "it recognises what the prompts name"
    assert judge.knows("a cat")
    assert judge.knows("art in mono style")
    with must_fail("a caption of something else"):
        assert judge.knows("a zebra")


def test_a_picture_does_not_depend_on_its_batch() -> None:
    pipe, prompts = load(), ["a cat", "a dog", "a key"]
    together = draw(pipe, prompts, steps=4)
    alone = draw(pipe, prompts, steps=4, batch_size=1)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-3)
    with must_fail("other seeds draw other pictures"):
        assert torch.allclose(together, draw(pipe, prompts, steps=4, seed=1), atol=0.1)


def test_rates_count_by_object_and_style() -> None:
    pairs = (("cat", "mono"), ("cat", "noto"), ("dog", "mono"), ("key", "noto"))
    found = Rates(pairs, torch.tensor([True, False, True, True]), torch.tensor([True, True, False, False]))
    assert found.object() == 0.75
    assert found.object("cat") == 0.5
    assert found.other_objects("cat") == 1.0
    assert found.style("mono") == 0.5
    assert found.other_styles("mono", without=["cat"]) == 0.0


def test_some_pairs_cover_objects_and_styles_evenly() -> None:
    pairs = some_pairs(2)
    assert len(set(pairs)) == 80
    assert {word for word, _ in pairs} == set(OBJECTS)
    assert all(sum(style == s for _, s in pairs) == 16 for style in STYLES)


def test_the_judge_gives_probabilities() -> None:
    seen = Judge.from_pretrained()(torch.zeros(2, 3, 64, 64))
    assert seen.objects.shape == (2, 40)
    assert seen.styles.shape == (2, 5)
    assert seen.objects.sum(1).tolist() == pytest.approx([1.0, 1.0], abs=1e-4)
