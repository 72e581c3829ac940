"""`evaluate`: what erasures do, beside the base model on the same prompts and seeds."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from ..arguments import integer_from
from ..denoiser import find_denoiser
from ..erasure import Erasure
from ..provenance import package_versions
from ..report import Report
from ..report_rows import Column, Row
from ..stacks.sources import Sources, check_base, read_all
from ..training.launch import joined
from ..training.processes import Processes
from .figures import Judged, rows
from .folder import Folder, check_names
from .images import draw_images
from .judging import Findings, judge_images
from .methods import Base, Erased, Method, without
from .sets import of_sets
from .suite import Suite
from .suites import SuiteName, suite_named
from .write import write_report

_COUNT, _BATCH = integer_from(0), integer_from(1)


def evaluate(
    pipe: DiffusionPipeline,
    erasures: Sources | None = None,
    *,
    suite: SuiteName | Suite = "quick",
    output_dir: str | os.PathLike[str],
    methods: Sequence[Method] = (),
    judges: Sequence[Any] | None = None,
    options: Mapping[str, Any] | None = None,
    batch_size: int = 8,
    tolerate_damaged: int = 0,
    keep_images: bool = True,
) -> Report:
    """Draw a suite's prompts with the base model and with erasures, judge the images, and write a report.

    Several erasures are evaluated each alone and all together. An evaluation that was interrupted goes on where it was.

    Args:
        pipe: The base model's pipeline; it is left as it was found. Adapters that are active on it are part of the
            base, but for the erasures themselves.
        erasures: One source, a list of sources (scale 1), or a mapping of sources to scales. A source is an `Erasure`,
            its folder or file, its Hub id (`user/name` or `user/name@revision`), or a recipe. `None` means none.
        suite: `"quick"`, `"objects"`, `"styles"`, `"nudity"`, `"fidelity"`, `"attack"`, or a suite of your own.
        output_dir: Folder of images, findings and report: `report.json`, `report.md`, `report.html`, `report.png`.
        methods: Further columns, such as `NegativePrompt`.
        judges: Instead of the suite's own.
        options: Arguments of the pipeline's call, which take precedence over the suite's.
        batch_size: Images in one call of the pipeline; does not change them beyond their last bits.
        tolerate_damaged: Number of damaged image files per method that are left out; more are an error.
        keep_images: `False` deletes the images when the report is written.

    Returns:
        The report. `erasure.with_report(report)` keeps it with an erasure.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an erasure does not fit the pipeline, two methods have the same name, the folder has images of
            another evaluation, or images are damaged.
        FileNotFoundError: If there is no erasure at a path or Hub id, or the weights of a judge are missing.
        FileExistsError: If the folder contains something that is not an evaluation.
        OSError: If a file cannot be written, such as on a full disk. The same call goes on from there.
        RuntimeError: If a judge does not answer for every image.
        ImportError: If the package of a judge is missing.
    """
    _COUNT("tolerate_damaged", tolerate_damaged)
    _BATCH("batch_size", batch_size)
    _check_json(options or {})
    parts = [] if erasures is None else read_all(erasures)
    folder = Folder(Path(output_dir))
    folder.check()
    erased = [erasure for erasure, _ in parts]
    for erasure in erased:
        check_base(erasure, pipe)
    columns = [Base(), *_columns(parts), *methods]
    check_names("methods", [method.name for method in columns])
    with without(pipe, erased):
        chosen = suite if isinstance(suite, Suite) else suite_named(suite, pipe, erased, judges)
        if judges is not None:
            chosen = replace(chosen, judges=tuple(judges))
        chosen = replace(chosen, options={**chosen.options, **(options or {})})
        check_names("judges", [judge.name for judge in chosen.judges])
        for method in columns:
            method.check(pipe)
        for attack in chosen.attacks:
            attack.check(pipe)
        processes = joined(find_denoiser(pipe)[1].device)
        _draw(pipe, columns, chosen, folder, batch_size, processes)
        return processes.from_main(
            lambda: _report(pipe, columns, chosen, folder, erased, tolerate_damaged, keep_images)
        )


def _check_json(options: Mapping[str, Any]) -> None:
    """Images of other options must not be taken for these, so the folder must be able to say what they are."""
    try:
        json.dumps(dict(options))
    except TypeError as error:
        raise TypeError(f"`options` must have JSON types: texts, numbers, lists ({error}).") from error


def _columns(parts: Sequence[Any]) -> list[Method]:
    """Each erasure alone, and all together if there are several."""
    alone: list[Method] = [Erased(erasure.name, [(erasure, scale)]) for erasure, scale in parts]
    return [*alone, Erased("all together", parts)] if len(parts) > 1 else alone


def _draw(
    pipe: Any, columns: Sequence[Method], suite: Suite, folder: Folder, batch_size: int, processes: Processes
) -> None:
    for method in columns:
        draw_images(
            pipe,
            method,
            suite.prompts,
            suite.attacks,
            folder,
            base=columns[0].name,
            options=suite.options,
            batch_size=batch_size,
            processes=processes,
        )


def _report(
    pipe: Any,
    columns: Sequence[Method],
    suite: Suite,
    folder: Folder,
    erasures: Sequence[Erasure],
    tolerated: int,
    keep_images: bool,
) -> Report:
    report = Report(
        suite=suite.name,
        columns=tuple(Column(method.name, method.erases, method.record(pipe)) for method in columns),
        rows=tuple(_rows(pipe, columns, suite, folder, tolerated)),
        prompts=suite.prompts.record(),
        groups=dict(suite.groups),
        options=dict(suite.options),
        judges={judge.name: judge.record() for judge in suite.judges}
        | {measure.name: measure.record() for measure in suite.measures},
        attacks={attack.title: attack.record() for attack in suite.attacks},
        versions=package_versions(),
        created=datetime.now(UTC).date().isoformat(),
        notes=suite.notes,
    )
    report = write_report(report, suite, folder, erasures)
    if not keep_images:
        folder.delete_images()
    return report


def _rows(pipe: Any, columns: Sequence[Method], suite: Suite, folder: Folder, tolerated: int) -> list[Row]:
    base, found = columns[0].name, []
    shown = not getattr(pipe, "_progress_bar_config", {}).get("disable", False)
    images = {"prompts": suite.prompts.digest(), "options": suite.options}
    images["attacks"] = {attack.title: attack.record() for attack in suite.attacks}
    for judge in suite.judges:
        findings: dict[str, Findings] = {
            method.name: judge_images(
                judge,
                method.name,
                suite.everything,
                folder,
                base=base,
                depends={"method": method.record(pipe), **images},
                tolerated=tolerated,
                shown=shown,
            )
            for method in columns
        }
        found += rows(Judged(judge, findings), suite.everything)
    for measure in suite.measures:
        found.append(of_sets(measure, [method.name for method in columns], suite, folder))
    return found
