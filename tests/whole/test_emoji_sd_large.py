"""The preset `large` of the small model: its words, its sizes, its weights, and updates of the training scripts."""

from __future__ import annotations

import argparse
import subprocess
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from controls import must_fail
from emoji_sd import STYLES, Judge, draw, load, loop, rates, train_autoencoder, train_diffusion, train_judge
from emoji_sd.data import fetch, make
from emoji_sd.loop import train
from emoji_sd.preset import LARGE, PRESETS, SMALL, Preset
from emoji_sd.text import text_encoder, tokenizer
from safetensors.torch import save_file

WORDS = LARGE.vocabulary
ONCE = ["--preset", "large", "--updates", "2", "--batch", "2", "--augmentations", "1"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cache with a few random images in place of the training images: nothing is downloaded."""
    generator = torch.Generator().manual_seed(0)
    for name in ("pictures-1-0", "pictures-4-1"):  # to train on, and the judge's to measure accuracy on
        data = {
            "pictures": torch.randint(256, (16, 3, 64, 64), generator=generator, dtype=torch.uint8),
            "objects": torch.randint(len(WORDS.objects), (16,), generator=generator),
            "styles": torch.randint(len(STYLES), (16,), generator=generator),
        }
        save_file(data, tmp_path / f"{name}.safetensors")
    return tmp_path


# Words.


def test_every_word_means_one_thing() -> None:
    words = [*WORDS.classes, *WORDS.objects, *(s for word in WORDS.objects for s in WORDS.synonyms[word])]
    assert len(words) == len(set(words))
    assert all(word.isalpha() and word.islower() for word in words)
    assert len(WORDS.objects) == 200
    assert 10 <= len(WORDS.classes) <= 20
    assert all(1 <= len(synonyms) <= 2 for synonyms in WORDS.synonyms.values())
    assert WORDS.without_article <= set(words)


def test_captions_name_the_object_its_synonyms_and_its_class() -> None:
    assert WORDS.captions("sheep", "mono") == (
        *("a sheep in mono style", "a sheep", "sheep"),
        *("a lamb in mono style", "a lamb", "lamb") * 2,
        *("an animal in mono style", "an animal", "art in mono style", ""),
    )


@pytest.mark.parametrize("preset", PRESETS.values(), ids=list(PRESETS))
def test_every_caption_has_its_weight(preset: Preset) -> None:
    lengths = {len(preset.vocabulary.captions(word, "mono")) for word in preset.vocabulary.objects}
    assert lengths == {len(preset.caption_weights)}
    assert sum(preset.caption_weights) == pytest.approx(1)


def test_every_word_is_one_token() -> None:
    tokens = tokenizer(LARGE)
    words = {word for caption in WORDS.all_captions() for word in caption.split()}
    assert all(len(tokens(word).input_ids) == 3 for word in words)
    with must_fail("another word is several tokens"):
        assert len(tokens("zebra").input_ids) <= 3


@pytest.mark.slow
def test_every_icon_is_in_all_five_sets() -> None:
    """Fetches the five sets with npm, unless they are in `.cache/`."""
    try:
        sets = [fetch(package) for package in STYLES.values()]
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("npm is missing, or cannot fetch the sets")
    for icons in sets:
        assert {WORDS.icon(word) for word in WORDS.objects} <= set(icons)
        with must_fail("other words are not icons"):
            assert set(WORDS.objects) <= set(icons)


# Data.


def test_images_are_of_the_drawings(tmp_path: Path) -> None:
    words = replace(WORDS, classes={"animal": ("cat", "dog")})
    colour = {key: i for i, key in enumerate(product(STYLES, words.objects))}
    drawings = {f"{s}/{o}": np.full((256, 256, 3), 20 * i, np.uint8) for (s, o), i in colour.items()}
    np.savez_compressed(tmp_path / "drawings.npz", **drawings)
    data = make(words, 3, 0, tmp_path)
    assert data["pictures"].shape == (30, 3, 64, 64)
    middle = data["pictures"][:, 0, 32, 32]
    assert middle.tolist() == (20 * (2 * data["styles"] + data["objects"])).tolist()


# Training.


def test_the_weights_are_30_mb_in_float16() -> None:
    tokens = tokenizer(LARGE)
    text = text_encoder(tokens, LARGE.text_width, LARGE.text_layers)
    models = [train_autoencoder.build(), text, train_diffusion.denoiser(LARGE), Judge(LARGE)]
    values = sum(p.numel() for model in models for p in model.parameters())
    assert 2 * values <= 30_000_000
    assert text.config.hidden_size >= 256
    assert text.config.num_hidden_layers >= 4
    with must_fail("float32 is twice as large"):
        assert 4 * values <= 30_000_000


def test_two_updates_of_each_script_make_a_pipeline_and_a_judge(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = [*ONCE, "--cache", str(folder), "--output", str(folder / "weights")]
    for script in (train_autoencoder, train_diffusion, train_judge):
        script.main(options)
    monkeypatch.setitem(PRESETS, "large", replace(LARGE, weights=folder / "weights"))
    judge = Judge.from_pretrained(preset="large")
    assert judge(torch.zeros(1, 3, 64, 64)).objects.shape == (1, 200)
    pairs = (("sheep", "mono"), ("torii", "noto"))
    assert rates(load(preset="large"), judge, pairs, steps=2).pairs == pairs
    files = [path for path in (folder / "weights").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 30_000_000


@pytest.mark.parametrize("script", [train_autoencoder, train_judge, train_diffusion])
def test_nothing_is_left_on_the_cpu(script: ModuleType, folder: Path) -> None:
    """On the device `meta`, which has no values, updates run until a value is read."""
    train_autoencoder.build().save_pretrained(folder / "vae")
    options = [*ONCE, "--cache", str(folder), "--output", str(folder), "--device", "meta"]
    with pytest.raises(RuntimeError, match=r"item\(\) cannot be called on meta tensors|Cannot copy out of meta tensor"):
        script.main(options)


def weights(seed: int, cache: Path, at_most: int = 400) -> torch.Tensor:
    """What a small training gives; it is interrupted where it needs more updates than `at_most`."""
    model, left = torch.nn.Linear(2, 1), iter(range(at_most))
    options = argparse.Namespace(device="cpu", updates=400, learning_rate=0.1, seed=seed, cache=cache)
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)

    def batch(generator: torch.Generator) -> tuple[torch.Tensor]:
        next(left)
        return (torch.randn(8, 2, generator=generator),)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return (model(x) - 1).square().mean()

    train("line", model, batch, loss, options)
    return model.weight.detach()


def test_a_training_that_was_interrupted_equals_one_that_was_not(tmp_path: Path) -> None:
    with pytest.raises(StopIteration):
        weights(0, tmp_path / "a", at_most=300)
    resumed, whole = weights(0, tmp_path / "a", at_most=200), weights(0, tmp_path / "b")
    assert torch.equal(resumed, whole)
    with must_fail("another seed gives other weights"):
        assert torch.equal(weights(1, tmp_path / "c"), whole)


# The weights.


@pytest.mark.parametrize("share", [2, pytest.param(1, marks=pytest.mark.slow)], ids=["half", "all"])
def test_every_class_is_drawn_with_objects_and_synonyms(share: int) -> None:
    """One object of each class under its own word, and another under a synonym; half of these, or all."""
    pipe, judge = load(preset="large"), Judge.from_pretrained(preset="large")
    asked = [(words[0], words[0]) for words in WORDS.classes.values()]
    asked += [(words[1], WORDS.synonyms[words[1]][0]) for words in WORDS.classes.values()]
    asked = asked[::share]

    def found(prompts: list[str]) -> float:
        seen = judge(draw(pipe, prompts, steps=16)).objects.argmax(1).tolist()
        return sum(WORDS.objects[i] == word for i, (word, _) in zip(seen, asked, strict=True)) / len(asked)

    assert found([WORDS.phrase(name, "noto") for _, name in asked]) >= 0.95
    with must_fail("the empty prompt names nothing"):
        assert found([""] * len(asked)) >= 0.95


@pytest.mark.skipif(not torch.cuda.is_available(), reason="captures a CUDA graph")
def test_captured_updates_equal_eager_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, found = torch.nn.Linear(2, 1), []
    options = argparse.Namespace(device="cuda", updates=200, learning_rate=0.1, seed=0)

    def batch(generator: torch.Generator) -> tuple[torch.Tensor]:
        return (torch.randn(8, 2, generator=generator).cuda(),)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return (model(x) - 1).square().mean()

    for kind in ("captured", "eager"):
        if kind == "eager":
            monkeypatch.setattr(loop, "captured", lambda model, loss, _: loop.eager(model, loss))
        torch.nn.init.zeros_(model.weight)
        torch.nn.init.zeros_(model.bias)
        options.cache = tmp_path / kind
        train("line", model, batch, loss, options)
        found.append(model.weight.detach().clone())
    torch.testing.assert_close(found[0], found[1])


# Errors.


def test_a_preset_that_was_not_trained_says_how_to_train_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "large", replace(LARGE, weights=tmp_path))
    message = r"^The preset 'large' was not trained: .* is missing\. .* In a clone, run these from `examples/`: "
    for read in (load, Judge.from_pretrained):
        with pytest.raises(FileNotFoundError, match=message + "python -m emoji_sd.data --preset large; "):
            read(preset="large")


def test_a_preset_that_does_not_exist_is_refused() -> None:
    for read in (load, Judge.from_pretrained):
        with pytest.raises(ValueError, match=r"^`preset` must be one of 'small', 'large', got 'huge'\.$"):
            read(preset="huge")


def test_the_page_has_the_commands_and_the_small_weights_are_apart() -> None:
    page = (SMALL.weights.parent / "README.md").read_text(encoding="utf-8")
    assert all(command in page for command in LARGE.train_commands())
    assert SMALL.weights not in (LARGE.weights, *LARGE.weights.parents)
