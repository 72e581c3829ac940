"""Training and judging, in parallel processes of one thread each. What is in the output folder is not made again."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from emoji_sd import STYLES, Judge, draw, load, settings

from diffusers_esd import Erasure, ESDTrainer, Recipe, calibrate, refine, stack

from . import closed_form
from .recipes import CATEGORIES, RECIPES, SEEDS, STEPS, Category, Ground, Words, pictures

Job = tuple[str, Callable[[], Any]]
"""A label, and what is done."""


@dataclass(frozen=True)
class Frontier:
    """What is measured, and the folder of the erasures and of what was found."""

    ground: Ground
    output: Path

    def pipeline(self) -> StableDiffusionPipeline:
        """The base model, silent."""
        pipe = load(preset=self.ground.preset)
        pipe.set_progress_bar_config(disable=True)
        return pipe


def run(jobs: Sequence[Job], processes: int) -> None:
    """Do jobs that do not depend on one another; the first error ends all."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = [pool.submit(_timed, label, action) for label, action in jobs]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _timed(label: str, action: Callable[[], Any]) -> None:
    started = time.monotonic()
    if action() is not False:
        print(f"{label}: {time.monotonic() - started:.0f} s", flush=True)


def measure(
    frontier: Frontier, names: Sequence[str], seeds: Sequence[int], rows: Sequence[str], processes: int
) -> None:
    """Train and judge recipes, with several seeds of training. Erasures are judged alone with the first seed only."""

    def job(action: Callable[..., Any], *keys: Any) -> Job:
        return " | ".join(row_name(k) if isinstance(k, tuple) else str(k) for k in keys), partial(
            action, frontier, *keys
        )

    names = list(dict.fromkeys(names))
    together = [words for row in rows for words in frontier.ground.rows[row] if len(words) > 1]
    alone = [words for row in rows for words in frontier.ground.rows[row] if len(words) == 1]
    for seed in seeds:
        of_seed = [name for name in names if seed == seeds[0] or RECIPES[name].kind not in ("base", "closed form")]
        sources = dict.fromkeys(RECIPES[name].of or name for name in of_seed)
        groups = [*together, *(alone if seed == seeds[0] else [])]
        single = dict.fromkeys(word for words in groups for word in words)
        stacks = [name for name in sources if RECIPES[name].kind == "stack"]
        run([job(train, name, seed, word) for name in stacks for word in single], processes)
        run([job(combine, name, seed, words) for name in of_seed for words in together], processes)
        judged = [(name, words) for name in of_seed for words in together]
        if seed == seeds[0]:
            judged += [(n, words) for n in of_seed if RECIPES[n].kind in ("base", "stack") for words in alone]
        run([job(judge, name, seed, words, category) for name, words in judged for category in CATEGORIES], processes)


def row_name(words: Words) -> str:
    """A word, or how many."""
    return words[0] if len(words) == 1 else str(len(words))


def folder(frontier: Frontier, name: str, seed: int) -> Path:
    """Of the erasures of a recipe. What is not trained has no seed."""
    seed = 0 if RECIPES[name].kind in ("base", "closed form") else seed
    return frontier.output / "erasures" / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"


def train(frontier: Frontier, name: str, seed: int, word: str) -> bool:
    """Erase one object or style; `False` if it was done before."""
    path = folder(frontier, name, seed) / word
    if (path / "erasure.json").is_file():
        return False
    pipe = frontier.pipeline()
    ground, fields = frontier.ground, dict(RECIPES[name].fields)
    if fields.get("preserve") != ():
        fields["synonyms"] = tuple(other for other in ground.withheld_words if other != word)
    if word in STYLES and "stop_at_alignment" in fields:
        fields["stop_at_alignment"] = min(
            fields["stop_at_alignment"], settings("esd-x", style=True)["stop_at_alignment"]
        )
    concept = f"art in {word} style" if word in STYLES else ground.vocabulary.phrase(word)
    ESDTrainer(pipe, **fields, seed=seed).erase(concept, name=f"no-{word}").save_pretrained(path)
    return True


def combine(frontier: Frontier, name: str, seed: int, words: Words) -> bool:
    """Calibrate, refine or train several together; `False` if there is nothing to do."""
    n, ground = len(words), frontier.ground
    recipe, path = RECIPES[name], folder(frontier, name, seed) / str(n)
    if recipe.kind not in ("calibrated", "refined", "joint") or path.exists():
        return False
    erasures = [folder(frontier, recipe.of or name, seed) / word for word in words]
    pipe = frontier.pipeline()
    if recipe.kind == "calibrated":
        Recipe.of(calibrate(pipe, [str(erasure) for erasure in erasures])).save(path)
    elif recipe.kind == "refined":
        refine(pipe, erasures, iterations=25 * n, rank=16, name="refined", seed=seed).save_pretrained(path)
    else:
        fields = {**recipe.fields, "iterations": 25 * n, "synonyms": ground.withheld_words, "seed": seed}
        concepts = [ground.vocabulary.phrase(word) for word in words]
        ESDTrainer(pipe, **fields).erase(concepts, name="joint").save_pretrained(path)
    return True


def erased(frontier: Frontier, name: str, seed: int, words: Words) -> StableDiffusionPipeline:
    """The pipeline with a recipe's erasures of some objects active."""
    pipe, recipe = frontier.pipeline(), RECIPES[name]
    if recipe.kind == "closed form":
        closed_form.apply(pipe, frontier.ground, words)
    elif recipe.kind == "stack":
        for word in words:
            Erasure.from_pretrained(folder(frontier, name, seed) / word).apply(pipe)
    elif recipe.kind != "base":
        stack(pipe, folder(frontier, name, seed) / str(len(words)))
    return pipe


def judge(frontier: Frontier, name: str, seed: int, words: Words, category: Category) -> bool:
    """Save what the judge finds in each image of a category; `False` if it was done before."""
    file = result_file(frontier, name, seed, words, category)
    if file.is_file():
        return False
    asked = pictures(frontier.ground, category, words)
    judge = Judge.from_pretrained(preset=frontier.ground.preset)
    images = draw(erased(frontier, name, seed, words), [p for p, _, _ in asked], seed=SEEDS[category], steps=STEPS)
    objects, styles = (probabilities.argmax(1).tolist() for probabilities in judge(images))
    found = [
        (word, style, judge.vocabulary.objects[seen], list(STYLES)[drawn])
        for (_, word, style), seen, drawn in zip(asked, objects, styles, strict=True)
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(f".{seed}.tmp")
    temporary.write_text(json.dumps(found))
    temporary.replace(file)
    return True


def result_file(frontier: Frontier, name: str, seed: int, words: Words, category: str) -> Path:
    """Where `judge` saves."""
    return frontier.output / "found" / folder(frontier, name, seed).name / f"{row_name(words)}-{category}.json"
