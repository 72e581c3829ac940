"""Which layers of a joint attention should `esd-x` train? Measured on emoji_joint (`emoji_sd.joint`).

Four objects are erased one by one with each set of layers; each erasure is judged alone, and all four are judged
together. Every image has the base model's seed. Run from `examples/`; what is in the output folder is not made again:

    python -m joint_attention --output ../joint-output --processes 2
    python -m joint_attention --output ../joint-output --processes 12 --device cuda
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from emoji_sd import OBJECTS, STYLES, Judge, class_of, phrase, plain, rates, some_pairs, unnamed
from emoji_sd.joint import JointPipeline, joint_settings, load_joint
from emoji_sd.rates import Pair
from frontier.work import run

from diffusers_esd import Erasure, ESDTrainer, stack
from diffusers_esd.files import whole

WORDS = ("cat", "pizza", "rocket", "church")
SEED = 700_000

_BLOCKS = r"transformer_blocks\.\d+\."
_OTHERS = rf"{_BLOCKS}ff_context\.net\..*|context_embedder|time_text_embed\.text_embedder\..*"
RECIPES: dict[str, dict[str, Any]] = {
    "`esd-x`: the text's projections in the attentions": joint_settings("esd-x"),
    "only their keys and values": joint_settings(rf"{_BLOCKS}attn\.add_[kv]_proj"),
    "also all other layers of the text": joint_settings(rf"{_BLOCKS}attn\.(add_[qkv]_proj|to_add_out)|{_OTHERS}"),
    "`esd-u`: all but the first row's": joint_settings("esd-u"),
    "`full`": joint_settings("full"),
    "`esd-x`, the paper's training": plain("esd-x"),
    "`esd-u`, the paper's training": plain("esd-u"),
}
"""Fields of `ESDConfig` by the row of the table."""


def pipeline(device: str) -> JointPipeline:
    """The base model, silent."""
    pipe = load_joint().to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def folder(output: Path, recipe: str, word: str) -> Path:
    """Of an erasure."""
    return output / "erasures" / str(list(RECIPES).index(recipe)) / f"no-{word}"


def pairs(words: Sequence[str]) -> tuple[tuple[Pair, ...], tuple[Pair, ...]]:
    """Ten images of each erased object, and two of every other."""
    others = [word for word in OBJECTS if word not in words]
    return tuple((word, style) for word in words for style in STYLES) * 2, some_pairs(2, others)


def train(output: Path, recipe: str, word: str, device: str) -> None:
    """Erase an object, if it was not done before."""
    path = folder(output, recipe, word)
    if not path.exists():
        try:
            erasure = ESDTrainer(pipeline(device), **RECIPES[recipe]).erase(phrase(word), name=f"no-{word}")
        except ValueError as error:
            if "No layer can tell" not in str(error):
                raise
            print(f"{recipe}, {word}: {error}")
        else:
            erasure.save_pretrained(path)


def judge(output: Path, recipe: str | None, words: Sequence[str], device: str) -> None:
    """Draw and judge with erasures of a recipe, or with the base model, if it was not done before."""
    path = _figures(output, recipe, words)
    folders = [] if recipe is None else [folder(output, recipe, word) for word in words]
    if path.exists() or not all(f.exists() for f in folders):
        return
    pipe, seen = pipeline(device), Judge.from_pretrained()
    if folders:
        stack(pipe, [Erasure.from_pretrained(f) for f in folders])
    erased, others = (rates(pipe, seen, which, seed=SEED + 1000 * i) for i, which in enumerate(pairs(words)))
    animals = [word for word in words if class_of(word) == "animal"]
    shares = unnamed(pipe, seen, n=60) if animals else {}
    figures = {
        "erased": {word: erased.object(word) for word in words},
        "others": others.object(),
        "styles": others.other_styles(),
        "unnamed": {word: shares[word] for word in animals},
    }
    with whole(path) as temporary:
        temporary.write_text(json.dumps(figures), encoding="utf-8")


def _figures(output: Path, recipe: str | None, words: Sequence[str]) -> Path:
    name = "base" if recipe is None else str(list(RECIPES).index(recipe))
    return output / "figures" / name / f"{'-'.join(words)}.json"


def table(output: Path) -> str:
    """The table of what was judged, in Markdown. Rates of others and styles are shares of the base model's."""

    def read(recipe: str | None, words: Sequence[str]) -> dict[str, Any] | None:
        path = _figures(output, recipe, words)
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    lines = [
        "| layers | number | erased (worst) | others | styles | unnamed | four: erased (worst) | others | styles |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for recipe in (None, *RECIPES):
        alone = [(read(recipe, [word]), read(None, [word])) for word in WORDS]
        together = _cells([(read(recipe, WORDS), read(None, WORDS))])
        layers = "" if recipe is None else _layers(output, recipe)
        cells = [recipe or "base model", layers, *_cells([both for both in alone if None not in both]), *together[:3]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _layers(output: Path, recipe: str) -> str:
    """How many layers the erasures have."""
    folders = [path for word in WORDS if (path := folder(output, recipe, word)).exists()]
    counts = [len(Erasure.from_pretrained(path).layers()) for path in folders]
    return "-".join(map(str, sorted({min(counts), max(counts)}))) if counts else "none"


def _cells(figures: Sequence[tuple[Any, Any]]) -> list[str]:
    """Erased (worst), others, styles and unnamed, of pairs of figures and the base model's."""
    if not figures or None in figures[0]:
        return ["-"] * 4
    erased = [rate for own, _ in figures for rate in own["erased"].values()]
    ratios = [mean(own[key] / base[key] for own, base in figures) for key in ("others", "styles")]
    shares = [share for own, _ in figures for share in own["unnamed"].values()]
    return [f"{mean(erased):.2f} ({max(erased):.2f})", *(f"{ratio:.2f}" for ratio in ratios),
            f"{mean(shares):.2f}" if shares else "-"]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Train, judge, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the erasures and the figures")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(argv)
    output, device = options.output, options.device
    run([(f"{recipe}, {word}", partial(train, output, recipe, word, device)) for recipe in RECIPES for word in WORDS],
        options.processes)  # fmt: skip
    judged = [(recipe, words) for words in (WORDS, *((word,) for word in WORDS)) for recipe in (None, *RECIPES)]
    run([(f"{recipe}, {words}", partial(judge, output, recipe, words, device)) for recipe, words in judged],
        options.processes)  # fmt: skip
    print(table(output))


if __name__ == "__main__":
    main()
