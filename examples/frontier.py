"""Erased against kept: every method on the same model, the same objects and the same seeds, one to sixteen stacked.

Run as `make frontier`, or `python examples/frontier.py`. Each erasure is trained alone, on the base model. Then the
first 2, 4, 8 and 16 are active together. Erasures and rates are saved in the output folder at once, and an interrupted
run continues from there. Writes `frontier.md` and `frontier.png`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))

from emoji_sd import OBJECTS, STYLES, Judge, load, phrase, plain, rates, settings, some_pairs

from diffusers_esd import Erasure, ESDTrainer, Limits
from diffusers_esd.families import family_for
from diffusers_esd.training import vocabulary
from diffusers_esd.training.encoding import Encoded

WORDS = (
    "dog", "pizza", "rocket", "guitar", "church", "frog", "apple", "bus",
    "penguin", "banana", "tulip", "clock", "rabbit", "tree", "umbrella", "train",
)  # fmt: skip
SIZES = (2, 4, 8, 16)


class Applicable(Protocol):
    """Anything that changes a pipeline."""

    def apply(self, pipe: StableDiffusionPipeline) -> None:
        """Change it; earlier changes stay."""


@dataclass(frozen=True)
class ClosedForm:
    """Unified Concept Editing (arXiv:2308.14761): keys and values edited in closed form, no training.

    With token states c of the concept's prompts, c0 of the empty prompt's at the same place and k of what is kept,
    `W' = W (sum c0 c' + weight sum k k') (sum c c' + weight sum k k')^-1`.

    Attributes:
        edit: `W' - W = W edit`, (width, width).
    """

    edit: Tensor

    @classmethod
    def of(cls, word: str, weight: float = 1.0) -> ClosedForm:
        """The edit that erases an object. Sums are means here; `weight` is the weight of the preserved vocabulary."""
        family = family_for(load())
        encoded, concept = Encoded(family), [phrase(word)]

        def tokens(prompts: Sequence[str]) -> Tensor:
            return torch.cat([states.flatten(0, 1) for _, states in encoded.states(prompts)])

        c, c0 = tokens(concept), tokens([""])
        k = tokens(vocabulary.preserved(family, concept, seed=0, limits=Limits()).prompts)
        cc, kept = c.T @ c / len(c), weight * (k.T @ k) / len(k)
        return cls(torch.linalg.solve(cc + kept, (c0 - c).T @ c / len(c), left=False))

    @torch.no_grad()
    def apply(self, pipe: StableDiffusionPipeline) -> None:
        """Add the edit, of the original weights, to every key and value of the cross-attentions."""
        for name, module in pipe.unet.named_modules():
            if name.endswith(("attn2.to_k", "attn2.to_v")):
                original = module.__dict__.setdefault("original_weight", module.weight.clone())
                module.weight += original @ self.edit


def trained(fields: dict[str, Any], folder: Path, word: str, limits: Limits | None = None) -> Erasure:
    """The erasure in the folder; it is trained and saved there if it is missing."""
    if not (folder / word / "erasure.json").is_file():
        pipe = load()
        pipe.set_progress_bar_config(disable=True)
        ESDTrainer(pipe, **fields, limits=limits).erase(phrase(word), name=f"no-{word}").save_pretrained(folder / word)
    return Erasure.from_pretrained(folder / word)


def recipes(output: Path) -> dict[str, Callable[[str], Applicable]]:
    """Functions that erase an object, by the name of the method."""
    loss = {"null_space": False, "preserve": "vocabulary", "preserve_weight": 20.0, "iterations": 150}
    fields: dict[str, dict[str, Any]] = {
        "ESD-x, default": settings("esd-x"),
        "ESD-x, plain": plain("esd-x"),
        "ESD-u, default": settings("esd-u"),
        "ESD-u, plain": plain("esd-u"),
        "ESD-x, anchor": {**settings("esd-x"), "anchor": "auto"},
        "ESD-u, anchor": {**settings("esd-u"), "anchor": "auto"},
        "ESD-u, null space without loss": {**settings("esd-u"), "preserve_weight": 0.0},
        "ESD-x, null space with loss": {**settings("esd-x"), "preserve_weight": 10.0},
        "ESD-x, loss without null space": {**plain("esd-x"), **loss},
        "ESD-u, loss without null space": {**plain("esd-u"), **loss},
    }
    found: dict[str, Callable[[str], Applicable]] = {
        name: partial(trained, field, output / "erasures" / name.replace(", ", "-").replace(" ", "-"))
        for name, field in fields.items()
    }
    scaled = {
        f"{name} at scale {scale}": partial(_scaled, found[name], scale)
        for name, scale in (("ESD-u, default", 0.8), ("ESD-x, default", 0.85))
    }
    return {**found, **scaled, "UCE, closed form": ClosedForm.of}


@dataclass(frozen=True)
class Scaled:
    """An erasure at a scale other than 1."""

    erasure: Any
    scale: float

    def apply(self, pipe: StableDiffusionPipeline) -> None:
        """Load and activate it."""
        self.erasure.apply(pipe, self.scale)


def _scaled(recipe: Callable[[str], Applicable], scale: float, word: str) -> Applicable:
    return Scaled(recipe(word), scale)


def judged(judge: Judge, erasures: Sequence[Applicable], words: Sequence[str]) -> dict[str, float]:
    """Rates with the erasures active: five images of each erased object, one of each other."""
    pipe = load()
    for erasure in erasures:
        erasure.apply(pipe)
    others = [(word, style) for word, style in some_pairs(1) if word not in words]
    found = rates(pipe, judge, (*others, *((word, style) for word in words for style in STYLES)))
    return {
        "erased": found.object(*words),
        "others": found.other_objects(*words),
        "styles": found.other_styles(without=words),
    }


def measure(output: Path, words: Sequence[str], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Rates of every method: each object alone, then the stacks. Rates in the output folder are not measured again."""
    judge, file = Judge.from_pretrained(), output / "rates.json"
    done: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}

    def once(key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if key not in done:
            started = time.monotonic()
            done[key] = make()
            temporary = file.with_suffix(".tmp")
            temporary.write_text(json.dumps(done, indent=1))
            temporary.replace(file)
            print(f"{key}: {done[key]} ({time.monotonic() - started:.0f} s)", flush=True)
        return done[key]

    table = {"base": {str(n): once(f"base | {n}", partial(judged, judge, [], words[:n])) for n in (1, *SIZES)}}
    for name in names:
        recipe = recipes(output)[name]
        erasures = [recipe(word) for word in words]
        singles = [
            once(f"{name} | {word}", partial(judged, judge, [erasure], [word]))
            for word, erasure in zip(words, erasures, strict=True)
        ]
        rows = {"1": {key: sum(single[key] for single in singles) / len(singles) for key in singles[0]}}
        rows["1"]["worst"] = max(single["erased"] for single in singles)
        for n in SIZES:
            if n <= len(words):
                rows[str(n)] = once(f"{name} | {n}", partial(judged, judge, erasures[:n], words[:n]))
        facts = [erasure.provenance for erasure in erasures if isinstance(erasure, Erasure)]
        if facts:
            rows["1"]["evaluations"] = sum(sum(fact.evaluations.values()) for fact in facts) / len(facts)
        table[name] = rows
    return table


def distances(output: Path, words: Sequence[str], values: Sequence[float]) -> str:
    """Rates of the default ESD-x with other values of `Limits.near`, above which a word is not preserved."""
    judge, lines = Judge.from_pretrained(), ["| from | words preserved | erased | others |", "|---" * 4 + "|"]
    for value in values:
        rows, kept = [], 0.0
        limits = Limits(near=value)
        for word in words:
            plan = ESDTrainer(load(), **settings("esd-x"), limits=limits).erase(phrase(word), dry_run=True)
            kept += len({part for prompt in plan.preserved for part in prompt.split()}) / len(words)
            erasure = trained(settings("esd-x"), output / "erasures" / f"near-{value}", word, limits)
            rows.append(judged(judge, [erasure], [word]))
        cells = [sum(row[key] for row in rows) / len(rows) for key in ("erased", "others")]
        lines.append(f"| {value} | {kept:.0f} | {cells[0]:.2f} | {cells[1]:.2f} |")
    return "\n".join(lines) + "\n"


def markdown(table: dict[str, dict[str, Any]]) -> str:
    """The table: erased / others / styles, by number stacked."""
    sizes = list(table["base"])
    lines = [
        "| recipe | " + " | ".join(f"{n} active" for n in sizes) + " | evaluations |",
        "|---" * (len(sizes) + 2) + "|",
    ]
    for name, rows in table.items():
        cells = [
            " / ".join(f"{rows[n][key]:.2f}" for key in ("erased", "others", "styles")) if n in rows else ""
            for n in sizes
        ]
        cost = f"{rows['1']['evaluations']:.0f}" if "evaluations" in rows["1"] else ""
        lines.append(f"| {name} | " + " | ".join([*cells, cost]) + " |")
    return "\n".join(lines) + "\n"


def plot(table: dict[str, dict[str, Any]], file: Path) -> None:
    """Left, what is kept, by the number stacked. Right, erased against kept for one number, with a point per method."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FixedLocator, NullLocator

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 5))
    base, compared = table["base"], max(n for n in (*SIZES[:3], 1) if str(n) in next(iter(table.values())))
    for (name, rows), colour in zip(table.items(), mpl.color_sequences["tab10"] * 2, strict=False):
        if name == "base":
            continue
        kept = {int(n): 100 * rows[n]["others"] / base[n]["others"] for n in rows}
        line = "--" if "plain" in name or "UCE" in name else "-"
        left.plot(list(kept), list(kept.values()), line, color=colour, marker="o", markersize=4, label=name)
        if compared in kept:
            gone = 100 * (1 - rows[str(compared)]["erased"])
            right.plot(kept[compared], gone, "s" if line == "--" else "o", color=colour, markersize=8, label=name)
    left.set_xscale("log", base=2)
    left.xaxis.set_major_locator(FixedLocator([1, *SIZES]))
    left.xaxis.set_minor_locator(NullLocator())
    left.xaxis.set_major_formatter("{x:.0f}")
    left.set_xlabel("erasures active together, trained one by one")
    left.set_ylabel("other objects recognised, % of the base model's")
    left.set_ylim(bottom=0)
    right.set_xlabel("kept: other objects recognised, % of the base model's")
    right.set_ylabel("erased: erased objects no longer recognised, %")
    right.set_title(f"{compared} active")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.suptitle("emoji_sd: what an erasure takes along")
    figure.legend(*left.get_legend_handles_labels(), fontsize=9, loc="lower center", ncols=5)
    figure.tight_layout(rect=(0, 0.09, 1, 1))
    figure.savefig(file, dpi=110)


def main() -> None:
    """All methods, from start to end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("frontier-output"))
    parser.add_argument("--only", nargs="+", metavar="RECIPE", help="names of recipes; all by default")
    parser.add_argument("--objects", type=int, default=len(WORDS), help="how many objects, of forty")
    parser.add_argument("--near", type=float, nargs="+", metavar="COSINE", help="compare these distances instead")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    words = (*WORDS, *(word for word in OBJECTS if word not in WORDS))[: options.objects]
    if options.near:
        text = distances(options.output, words[:4], options.near)
        (options.output / "distances.md").write_text(text, encoding="utf-8")
        print(text)
        return
    table = measure(options.output, words, options.only or list(recipes(options.output)))
    text = markdown(table)
    (options.output / "frontier.md").write_text(text, encoding="utf-8")
    plot(table, options.output / "frontier.png")
    print(text)


if __name__ == "__main__":
    main()
