"""Erase an object and a style from emoji_sd, save both, load both into a new pipeline, stack them, generate images.

Writes `demo-output/`: the two erasures, `demo.png` (rows: base, without cat, without mono, both) and `demo.md` (the
table of rates). Run as `diffusers-esd demo`, or `make demo` from a clone.
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from diffusers_esd import ESDTrainer, stack
from diffusers_esd.pictures.grid import grid

from . import Judge, draw, load, rates, settings, some_pairs, unnamed

PROMPTS = (
    "a cat in noto style", "a cat in mono style", "an animal", "a dog in twemoji style", "a panda in mono style",
    "a pizza in fluent style", "an apple in emojione style", "a rocket in mono style", "a tulip in noto style",
    "a guitar in twemoji style", "a house in mono style", "art in mono style",
)  # fmt: skip
# Two styles of every object, and more images of the concept: two would be too few for a rate.
PAIRS = (*some_pairs(2), *[("cat", style) for style in ("twemoji", "noto", "fluent", "mono", "emojione")] * 3)
ROWS = {"base": [], "without cat": ["no-a-cat"], "without mono": ["no-mono"], "both": ["no-a-cat", "no-mono"]}


def tiles(pictures: torch.Tensor) -> list[Image.Image]:
    """Images (N, 3, H, W) from -1 to 1."""
    values = ((pictures.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(picture) for picture in values]


def run(output: Path) -> None:
    """The demo, from start to end.

    Args:
        output: Folder to write; it may exist.
    """
    output.mkdir(parents=True, exist_ok=True)
    judge = Judge.from_pretrained()

    cat = ESDTrainer(load(), **settings("esd-u")).erase("a cat")
    print(cat.save_pretrained(output / "no-a-cat"), flush=True)
    mono = ESDTrainer(load(), **settings("esd-x", style=True)).erase("art in mono style", name="no-mono")
    print(mono.save_pretrained(output / "no-mono"), flush=True)

    pipe = load()
    stack(pipe, {output / "no-a-cat": 1.0, output / "no-mono": 1.0})
    pictures: dict[str, torch.Tensor] = {}
    lines = [
        "| | cat | other objects | mono style | other styles | “an animal” is a cat |",
        "|---|---|---|---|---|---|",
    ]
    for label, adapters in ROWS.items():
        pipe.enable_lora()
        if adapters:
            pipe.set_adapters(adapters, [1.0] * len(adapters))
        else:
            pipe.disable_lora()
        pictures[label] = draw(pipe, PROMPTS)
        found = rates(pipe, judge, PAIRS)
        animals = unnamed(pipe, judge)
        cells = (
            found.object("cat"), found.other_objects("cat"), found.style("mono"),
            found.other_styles("mono", without=["cat"]), animals["cat"],
        )  # fmt: skip
        lines.append(f"| {label} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |")
        print(lines[-1], flush=True)
    facts = [
        f"- {erasure.name}: {erasure.config.group}, {erasure.provenance.iterations} iterations, "
        f"{erasure.provenance.seconds:.0f} s, {erasure.provenance.evaluations['no_grad']} denoiser evaluations without "
        f"gradient and {erasure.provenance.evaluations['grad']} with, alignment {erasure.provenance.alignment:.2f}"
        for erasure in (cat, mono)
    ]
    text = "\n".join([*lines, "", *facts]) + "\n"
    (output / "demo.md").write_text(text, encoding="utf-8")
    rows = [(label, tiles(drawn)) for label, drawn in pictures.items()]
    grid(rows, [prompt.replace(" in ", "\nin ") for prompt in PROMPTS], 128).save(output / "demo.png", optimize=True)
    print(f"\n{text}\nLook at {output / 'demo.png'}")
