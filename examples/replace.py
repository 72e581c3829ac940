"""Replace a dog by a cat: erase "a dog" with the anchor "a cat" and `eta=0`, and draw both prompts before and after.

Writes `replace.png`. Run as `python examples/replace.py`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from emoji_sd import load, settings

from diffusers_esd import ESDTrainer
from diffusers_esd.pictures.draw import draw
from diffusers_esd.pictures.grid import grid

PROMPTS = tuple(
    f"{word} in {style} style" for word in ("a dog", "a cat", "a rabbit") for style in ("noto", "twemoji", "mono")
)


def main() -> None:
    """Train, and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("replace.png"))
    output = parser.parse_args().output
    fields = {**settings("esd-x"), "anchor": "a cat", "eta": 0.0, "stop_at_alignment": 0.05}
    pipe = load()
    erasure = ESDTrainer(pipe, **fields).erase("a dog", name="dog-to-cat")
    print(f"{erasure.provenance.iterations} iterations, alignment {erasure.provenance.alignment:.2f}")
    rows = []
    for label, scale in (("base", 0.0), ("replaced", 1.0)):
        pipe.set_adapters(["dog-to-cat"], [scale])
        images = draw(pipe, PROMPTS, [0], num_inference_steps=25)
        rows.append((label, [image for (image,) in images]))
    columns = [prompt.replace(" in ", "\nin ") for prompt in PROMPTS]
    grid(rows, columns, side=110).save(output)


if __name__ == "__main__":
    main()
