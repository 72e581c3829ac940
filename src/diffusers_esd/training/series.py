"""`erase_each`: many concepts, an erasure each, all with the same configuration.

The pipeline is loaded once, and each erasure is removed from it before the next one is trained. Processes of a launcher
share the concepts: each process trains its part of them alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diffusers import DiffusionPipeline

from ..adapter import as_found
from ..arguments import check_prompt
from ..base_model import fingerprint, same_weights
from ..config import ESDConfig
from ..families import Family
from ..files import WEIGHTS_NAME
from ..limits import Limits
from ..names import default_name
from ..provenance import Provenance
from ..run import LATEST, RunConfig
from ..storage import check_folder, read_file
from ..summary import outcome
from .identity import differences
from .launch import joined
from .memory import check_several
from .prompts import check_concepts
from .trainer import ESDTrainer

Status = Literal["trained", "there", "failed", "interrupted", "not started"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one concept.

    Attributes:
        concept: The concept.
        folder: The folder of its erasure; it exists if the erasure is complete.
        status: `"trained"`, `"there"` (the folder has it already), `"failed"`, or after Ctrl-C `"interrupted"` or
            `"not started"`.
        text: What the alignment at the end says, or the error.
        seconds: Time of the training.
    """

    concept: str
    folder: Path
    status: Status
    text: str = ""
    seconds: float = 0.0


def read_concepts(file: Path) -> tuple[str, ...]:
    """The concepts in a text file in UTF-8, one a line. Blank lines, and lines that begin with `#`, are left out.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not text, a concept is there twice, or there is none.
    """
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {file}; give a text file with one concept a line.")
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not a text file in UTF-8 ({error}).") from error
    numbers: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        concept = line.strip()
        if not concept or concept.startswith("#"):
            continue
        if concept in numbers:
            raise ValueError(f"{file} has {concept!r} in lines {numbers[concept]} and {number}; remove one of them.")
        numbers[concept] = number
    if not numbers:
        raise ValueError(f"{file} has no concepts; write one a line.")
    return tuple(numbers)


def check_each(concepts: Sequence[str], folder: Path, config: ESDConfig, run: RunConfig) -> dict[str, Outcome]:
    """Refuse what cannot be trained, before a model is loaded.

    Args:
        concepts: The concepts.
        folder: The folder of the erasures' folders.
        config: What is learned.
        run: How it runs.

    Returns:
        By concept, the erasures that are there already, complete and with this configuration.

    Raises:
        TypeError: If a concept is not a string.
        ValueError: If there is no concept, one is empty or there twice, two would have the same name, the configuration
            is not for a single concept, or `run` is not for several.
        FileExistsError: If the folder of a concept has something else, or an erasure with another configuration.
    """
    if run.output_dir is not None and Path(run.output_dir).resolve() == folder.resolve():
        raise ValueError(
            f"`output_dir`, for checkpoints, must be another folder than that of the erasures; got {folder} for both."
        )
    if run.resume not in (None, LATEST):
        raise ValueError(f"`resume` must be 'latest' or None for several concepts, got {str(run.resume)!r}.")
    names: dict[str, str] = {}
    for concept in concepts:
        name = default_name(check_concepts(check_prompt("concept", concept), config))
        if name in names:
            raise ValueError(
                f"{names[name]!r} and {concept!r} would have the same name, {name!r}; reword one, or erase it alone."
            )
        names[name] = concept
    if not names:
        raise ValueError("`concepts` is empty; give at least one.")
    check_several(run, concepts)
    there = ((concept, _there(concept, folder / name, config)) for name, concept in names.items())
    return {concept: found for concept, found in there if found is not None}


def _there(concept: str, folder: Path, config: ESDConfig) -> Outcome | None:
    """The erasure of a concept, if its folder has it."""
    check_folder(folder)
    if not (folder / WEIGHTS_NAME).is_file():
        return None
    _, _, their_config, provenance = read_file(folder / WEIGHTS_NAME)
    theirs = {} if their_config is None else their_config.to_dict()
    then, now = {"concept": list(provenance.concepts), **theirs}, {"concept": [concept], **config.to_dict()}
    if different := differences(then, now, "there"):
        raise FileExistsError(
            f"{folder} contains another erasure: {different}. Give its values or another folder, or delete it."
        )
    if not provenance.complete:
        return None
    text = _verdict(concept, config, provenance)
    return Outcome(concept=concept, folder=folder, status="there", text=text, seconds=provenance.seconds)


def _verdict(concept: str, config: ESDConfig, provenance: Provenance) -> str:
    return outcome(config, provenance).removeprefix(f"{concept}: ")


def erase_each(
    pipe: DiffusionPipeline,
    concepts: str | Iterable[str],
    folder: str | os.PathLike[str],
    config: ESDConfig | None = None,
    *,
    run: RunConfig | None = None,
    family: Family | None = None,
    limits: Limits | None = None,
    check: bool = False,
    report: Callable[[Outcome], object] | None = None,
    **overrides: Any,
) -> list[Outcome]:
    """Train one erasure for each concept, and save it in `folder/<name>`. The pipeline is left as it was found.

    An erasure that is there already, complete and with the same configuration, is not trained again. If a training
    fails, the others go on. Ctrl-C ends the training and those that would follow; it is not saved, but can go on from
    its checkpoint. Processes of a launcher share the concepts.

    Args:
        pipe: The pipeline.
        concepts: The concepts, or one.
        folder: The folder of the erasures' folders.
        config: What is learned; `None` means the defaults.
        run: How the trainings run; `None` means the defaults. Checkpoints are in `output_dir/<name>`.
        family: The family of the pipeline; `None` finds it by the pipeline's class.
        limits: The fixed numbers of vocabulary and null space.
        check: Also draw `check.png` for each, as `Erasure.check` does.
        report: Called with the outcome of each concept of this process as soon as it is known.
        overrides: Fields of `ESDConfig` and of `RunConfig` to change.

    Returns:
        What became of each concept, in their order, of all processes.

    Raises:
        TypeError: If a concept is not a string, or the kind of pipeline is unknown.
        ValueError: If a concept or the configuration cannot be trained, two concepts would have the same name, or an
            erasure that is there was trained on other base weights.
        FileExistsError: If the folder of a concept has something else, or an erasure with another configuration.
    """
    trainer = ESDTrainer(pipe, config, run=run, family=family, limits=limits, **{**overrides, "data_parallel": False})
    concepts, root = [concepts] if isinstance(concepts, str) else list(concepts), Path(folder)
    tell, is_ended = report or (lambda _: None), False
    processes = joined(trainer.family.device)
    processes.check_equal({"concepts": list(concepts), **trainer.config.to_dict()})
    found = processes.from_main(lambda: _found(trainer, concepts, root))
    waiting = [concept for concept in concepts if concept not in found]
    own = list(found.values()) if processes.is_main else []
    for there in own:
        tell(there)
    for concept in waiting[processes.rank :: processes.number]:
        result = _not_started(concept, root) if is_ended else _erased(trainer, concept, root, draw=check)
        is_ended |= result.status == "interrupted"
        own.append(result)
        tell(result)
    every = {result.concept: result for part in processes.collect(own) for result in part}
    return [every[concept] for concept in concepts]


def _found(trainer: ESDTrainer, concepts: Sequence[str], root: Path) -> dict[str, Outcome]:
    """What is there already, trained on these base weights."""
    found, here = check_each(concepts, root, trainer.config, trainer.run), fingerprint(trainer.family.denoiser)
    for there in found.values():
        base = read_file(there.folder / WEIGHTS_NAME)[3]
        if base.base_fingerprint and here and not same_weights(base.base_fingerprint, here):
            raise ValueError(
                f"{there.folder} was trained on {base.base_model}, whose weights are not this pipeline's; give another "
                "folder, or delete it."
            )
    return found


def _erased(trainer: ESDTrainer, concept: str, root: Path, *, draw: bool) -> Outcome:
    """Train one, save it, and remove it from the pipeline."""
    folder, started = root / default_name([concept]), time.monotonic()
    try:
        with as_found(trainer.family.denoiser):
            erasure = trainer.erase(concept)
            if not erasure.provenance.complete:
                raise KeyboardInterrupt
            erasure.save_pretrained(folder)
            if draw:
                erasure.check(trainer.family.pipe, family=trainer.family)
                erasure.save_pretrained(folder)
        status: Status = "trained"
        text = _verdict(concept, trainer.config, erasure.provenance)
    except KeyboardInterrupt:
        status, text = "interrupted", ""
    except Exception as error:
        status, text = "failed", " ".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())])
    return Outcome(concept=concept, folder=folder, status=status, text=text, seconds=time.monotonic() - started)


def _not_started(concept: str, root: Path) -> Outcome:
    return Outcome(concept=concept, folder=root / default_name([concept]), status="not started")


def table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes as a table in plain text."""
    rows = [("concept", "folder", "status", "seconds", "outcome")]
    rows += [(o.concept, str(o.folder), o.status, f"{o.seconds:.0f}", o.text) for o in outcomes]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[-1]]) for row in rows
    )
