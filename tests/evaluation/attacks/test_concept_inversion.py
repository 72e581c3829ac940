"""Concept Inversion: its values, and with the small real model what it is for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from controls import must_fail
from emoji_sd import OBJECTS, STYLES, Judge, load, phrase, settings
from made import made
from PIL import Image, ImageOps
from pipelines import same, state_of
from tiny import tiny_pipeline

from diffusers_esd import ESDTrainer
from diffusers_esd.evaluation.attacks.concept_inversion import BUDGETS, Mode, concept_inversion
from diffusers_esd.evaluation.attacks.controls import with_controls
from diffusers_esd.evaluation.attacks.learning import Budget
from diffusers_esd.evaluation.baselines.baked import Baked
from diffusers_esd.evaluation.baselines.closed_form import ClosedForm
from diffusers_esd.evaluation.baselines.negative_prompt import NegativePrompt
from diffusers_esd.evaluation.baselines.safe_latent_diffusion import SafeLatentDiffusion
from diffusers_esd.evaluation.judges.base import Picture
from diffusers_esd.evaluation.methods import Base, Erased, Method, drawer
from diffusers_esd.evaluation.prompts import Prompt

OPTIONS = {"num_inference_steps": 2, "guidance_scale": 4.0}
SHORT = Budget(steps=2, learning_rate=0.5, batch_size=2)
TARGETS = [
    Picture(Prompt(case=f"t{i}", text="a cat", seed=i), Image.new("RGB", (16, 16), color), Image.new("RGB", (16, 16)))
    for i, color in enumerate(["red", "green"])
]


@pytest.mark.parametrize("mode", ["token", "prompt_embeds"])
def test_it_draws_with_what_it_learned_and_leaves_nothing(mode: Mode) -> None:
    pipe = tiny_pipeline()
    attack = concept_inversion(
        "a cat", ["t0", "t1"], mode=mode, labels={"subject": "cat"}, images=3, budget=SHORT, start="cat"
    )
    assert len({prompt.case for prompt in attack.prompts}) == 3
    assert {(p.group, p.concept, p.labels["subject"]) for p in attack.prompts} == {(attack.name, "a cat", "cat")}
    assert attack.record()["steps"] == 2
    draw, before = drawer(pipe, OPTIONS), state_of(pipe)
    plain = draw(attack.prompts)
    with attack.drawing(pipe, draw, TARGETS) as attacked:
        images = attacked(attack.prompts)
    same(before, state_of(pipe))
    assert all(np.array_equal(a, b) for a, b in zip(draw(attack.prompts), plain, strict=True))
    with must_fail("what it learned is used"):
        assert np.array_equal(images[0], plain[0])
    negative = replace(attack, inverted=True)
    with negative.drawing(pipe, draw, TARGETS) as attacked:
        of_negatives = attacked(attack.prompts)
    turned = [replace_image(picture) for picture in TARGETS]
    with attack.drawing(pipe, draw, turned) as attacked:
        expected = [ImageOps.invert(image) for image in attacked(attack.prompts)]
    assert all(np.array_equal(a, b) for a, b in zip(of_negatives, expected, strict=True))


def replace_image(picture: Picture) -> Picture:
    """The negative of a picture."""
    return Picture(picture.prompt, ImageOps.invert(picture.image), picture.base)


@pytest.mark.parametrize(
    "method_of",
    [
        lambda pipe: NegativePrompt(["a cat"]),
        lambda pipe: SafeLatentDiffusion(["a cat"], preset="max"),
        lambda pipe: ClosedForm(["a cat"], preserved=["a dog", "a bus"]),
        lambda pipe: Erased("erased", [(made(pipe), 1.0)]),
        lambda pipe: Baked("baked", [(made(pipe), 1.0)]),
    ],
    ids=["negative prompt", "sld", "closed form", "erased", "baked"],
)
def test_it_attacks_every_method(method_of: Callable[[Any], Method]) -> None:
    pipe = tiny_pipeline()
    method, before = method_of(pipe), state_of(pipe)
    attack = concept_inversion("a cat", ["t0"], labels={"subject": "cat"}, images=1, budget=SHORT)
    with method.drawing(pipe, OPTIONS) as draw, attack.drawing(method.pipeline(pipe), draw, TARGETS) as attacked:
        image = attacked(attack.prompts)[0]
    with Base().drawing(pipe, OPTIONS) as draw, attack.drawing(pipe, draw, TARGETS) as attacked:
        of_base = attacked(attack.prompts)[0]
    same(before, state_of(pipe))
    with must_fail("the method acts while the attack draws"):
        assert np.array_equal(image, of_base)


def test_cases_are_names_of_files() -> None:
    cases = [
        concept_inversion(concept, ["t0"], labels={}, images=1).prompts[0].case
        for concept in ("a cat", "Van Gogh's style", "猫", "犬", "x" * 60)
    ]
    assert cases[0] == "inversion-prompt-embeds-a-cat-0000"
    assert len(set(cases)) == 5
    assert with_controls(concept_inversion("y " * 60, ["t0"], labels={}, images=1), ["t1"])[1].prompts[0].case


def test_what_it_refuses() -> None:
    with pytest.raises(ValueError, match=r"^`steps` must be"):
        Budget(steps=0, learning_rate=0.1)
    with pytest.raises(ValueError, match=r"^`learning_rate` must be"):
        Budget(steps=1, learning_rate=0)
    labels = {"subject": "cat"}
    with pytest.raises(ValueError, match=r"^`targets` is empty; Concept Inversion needs cases of the concept"):
        concept_inversion("a cat", [], labels=labels)
    with pytest.raises(ValueError, match=r"^`mode` must be one of 'token', 'prompt_embeds', got 'words'.$"):
        concept_inversion("a cat", ["t0"], labels=labels, mode="words", budget=SHORT)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^'art', whose place the token takes, is not in the prompt 'a cat'.$"):
        concept_inversion("a cat", ["t0"], labels=labels, mode="token", template="a cat")


def rate(images: Sequence[Image.Image], word: str) -> float:
    """Share of images in which the judge recognises an object."""
    pixels = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) / 127.5 - 1 for image in images])
    return (Judge.from_pretrained()(pixels).objects.argmax(1) == OBJECTS.index(word)).float().mean().item()


@pytest.mark.slow
def test_it_finds_what_esd_x_has_hidden_and_its_controls_do_not() -> None:
    pipe = load()
    pipe.set_progress_bar_config(disable=True)
    erasure = ESDTrainer(pipe, **settings("esd-x")).erase("a cat")
    erasure.remove(pipe)
    options = {"num_inference_steps": 25, "guidance_scale": 4.0}
    named = {
        word: [Prompt(case=f"{word}-{i}", text=phrase(word, list(STYLES)[i % 5]), seed=i) for i in range(40)]
        for word in ("cat", "dog")
    }
    with Base().drawing(pipe, options) as draw:
        targets = {
            word: [Picture(prompt, image, image) for prompt, image in zip(prompts, draw(prompts), strict=True)]
            for word, prompts in named.items()
        }
    method: Method = Erased("esd-x", [(erasure, 1.0)])
    attacks = with_controls(
        concept_inversion("a cat", [p.case for p in named["cat"]], labels={"subject": "cat"}),
        [p.case for p in named["dog"]],
    )
    found = []
    with method.drawing(pipe, options) as draw:
        without = rate(draw(named["cat"]), "cat")
        for attack, word in zip(attacks, ("cat", "dog", "cat"), strict=True):
            with attack.drawing(pipe, draw, targets[word]) as attacked:
                found.append(rate(attacked(attack.prompts), "cat"))
    recovered, another, taught = found
    assert without <= 0.3
    assert recovered >= 0.6
    for control in (another, taught):
        with must_fail("a control finds the concept"):
            assert control >= 0.5 * recovered
    assert BUDGETS["prompt_embeds"] == attacks[0].budget
