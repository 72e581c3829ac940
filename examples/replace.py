"""Replace a dog by a cat: erase "a dog" with the anchor "a cat" and `eta=0`, and draw both prompts before and after.

Writes `replace.png`. Run as `python examples/replace.py`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from emoji_sd import load, settings

from diffusers_esd import ESDTrainer, preview


def main() -> None:
    """Train, and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("replace.png"))
    output = parser.parse_args().output
    fields = {**settings("esd-x"), "anchor": "a cat", "eta": 0.0, "stop_at_alignment": 0.05}
    erasure = ESDTrainer(load(), **fields).erase("a dog", name="dog-to-cat")
    print(f"{erasure.provenance.iterations} iterations, alignment {erasure.provenance.alignment:.2f}")
    prompts = [f"{word} in {style} style" for word in ("a dog", "a cat") for style in ("noto", "twemoji", "mono")]
    image = preview(load(), erasure, prompts, scales=[0.0, 1.0], seeds=[0, 1, 2], num_inference_steps=25)
    image.save(output)


if __name__ == "__main__":
    main()
