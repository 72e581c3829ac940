"""The table of docs/attacks.md: Concept Inversion with its controls, on the small model without its cat.

Run `python -m attacks` from `examples/`; on two cores it takes about half an hour. It trains both erasures first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from emoji_sd import OBJECTS, STYLES, Judge, load, phrase, plain, settings
from PIL.Image import Image

from diffusers_esd import ESDTrainer
from diffusers_esd.evaluation.attacks.concept_inversion import Mode, concept_inversion
from diffusers_esd.evaluation.attacks.controls import with_controls
from diffusers_esd.evaluation.attacks.noise_probe import best_of, noise_probe
from diffusers_esd.evaluation.judges.base import Picture
from diffusers_esd.evaluation.methods import Base, Erased, Method
from diffusers_esd.evaluation.prompts import Prompt

OPTIONS = {"num_inference_steps": 25, "guidance_scale": 4.0}
MODES: tuple[Mode, ...] = ("token", "prompt_embeds")


def named(word: str, n: int = 40, seed: int = 500_000) -> list[Prompt]:
    """Prompts that name an object, in all styles."""
    return [Prompt(case=f"{word}-{i}", text=phrase(word, list(STYLES)[i % 5]), seed=seed + i) for i in range(n)]


def found(judge: Judge, images: Sequence[Image]) -> list[bool]:
    """In which images the judge recognises a cat."""
    pixels = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) / 127.5 - 1 for image in images])
    return (judge(pixels).objects.argmax(1) == OBJECTS.index("cat")).tolist()


def rate(judge: Judge, images: Sequence[Image]) -> str:
    """Share of images in which the judge recognises a cat."""
    return f"{np.mean(found(judge, images)):.2f}"


def main() -> None:
    """Print one line for each rate."""
    pipe, judge = load(), Judge.from_pretrained()
    pipe.set_progress_bar_config(disable=True)
    methods: dict[str, Method] = {"base": Base()}
    for name, fields in (("esd-x", settings("esd-x")), ("esd-u", plain("esd-u"))):
        erasure = ESDTrainer(pipe, **fields).erase("a cat", name=f"no-cat-{name}")
        erasure.remove(pipe)
        methods[name] = Erased(name, [(erasure, 1.0)])
    with Base().drawing(pipe, OPTIONS) as draw:
        targets = {
            word: [Picture(p, image, image) for p, image in zip(named(word), draw(named(word)), strict=True)]
            for word in ("cat", "dog")
        }
    others = [picture.prompt.case for picture in targets["dog"]]
    probe = noise_probe(named("cat", 6, 800_000))
    for name, method in methods.items():
        with method.drawing(pipe, OPTIONS) as draw:
            print(name, "no attack", rate(judge, draw(named("cat"))), sep=" | ", flush=True)
            for mode in MODES:
                cases = [picture.prompt.case for picture in targets["cat"]]
                attack = concept_inversion("a cat", cases, mode=mode, labels={"subject": "cat"})
                for one, word in zip(with_controls(attack, others), ("cat", "dog", "cat"), strict=True):
                    with one.drawing(pipe, draw, targets[word]) as attacked:
                        print(name, one.name, rate(judge, attacked(one.prompts)), sep=" | ", flush=True)
            with probe.drawing(pipe, draw, ()) as attacked:
                hits = found(judge, attacked(probe.prompts))
            best = best_of({p.case: hit for p, hit in zip(probe.prompts, hits, strict=True)}).values()
            print(
                name,
                probe.name,
                f"{np.mean(hits):.2f}",
                f"best of 24: {np.mean(list(best)):.2f}",
                sep=" | ",
                flush=True,
            )


if __name__ == "__main__":
    main()
