"""The command `erase`, which trains. Its options are the fields of `ESDConfig` and `RunConfig`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import ESDConfig
from ..names import default_name
from ..run import RunConfig
from .fields import add_config, add_fields, configurations
from .model import add_model, load_pipeline
from .options import adapter_name, add_command, add_output, check_output, prompt, save
from .parts import Parts
from .prompt_files import read_prompts
from .repeat import write_config


def add_commands(commands: Any) -> None:
    """Add the command."""
    erase = add_command(commands, "erase", _erase, "train an erasure")
    add_output(erase)
    add_model(erase)
    what = erase.add_mutually_exclusive_group(required=True)
    text = 'words of the concept, in quotes if there are several: "Van Gogh"; or give --concepts (default: none)'
    what.add_argument("concept", nargs="?", type=prompt, help=text)
    text = "text file with one concept a line; each gets an adapter of its own, in a folder of its own in --output"
    what.add_argument("--concepts", type=Path, metavar="FILE", help=f"{text} (default: none)")
    text = (
        "prompts of LECO or sd-scripts, or a job of ai-toolkit with a slider: its concepts, eta and anchors, for one "
        "adapter. Options that are given count more"
    )
    what.add_argument("--prompts", type=Path, metavar="FILE", help=f"{text} (default: none)")
    text = "a further concept that the same adapter erases; may be repeated (default: none)"
    erase.add_argument(
        "--concept", dest="further", type=prompt, action="append", default=[], metavar="CONCEPT", help=text
    )
    erase.add_argument("--name", type=adapter_name, help="name of the adapter (default: made from the concepts)")
    erase.add_argument("--dry-run", action="store_true", help="print what would be trained and its cost, then stop")
    erase.add_argument("--check", action="store_true", help="afterwards, draw check.png and print the alignments")
    add_config(erase)
    add_fields(erase.add_argument_group("what is learned"), ESDConfig)
    add_fields(erase.add_argument_group("how it runs"), RunConfig)


def _erase(options: argparse.Namespace) -> None:
    given, of_prompts = ((options.concept,), {}) if options.prompts is None else read_prompts(options.prompts)
    config, run = configurations(options, of_prompts)
    if options.concepts is not None:
        _erase_each(options, config, run)
        return
    from ..training.launch import is_launched, joined
    from ..training.prompts import check_concepts
    from ..training.trainer import ESDTrainer, check_packages

    check_output(options)
    check_packages(config, run)
    concepts = check_concepts([*given, *options.further], config)
    if options.output.resolve() == run.folder(options.name or default_name(concepts)):
        raise ValueError(f"{options.output} is also the folder of the checkpoints; give another --output-dir.")
    if is_launched() and not run.data_parallel:
        raise ValueError("--no-data-parallel is for --concepts: here all processes would train the same.")
    pipe = load_pipeline(options, _parts(options, run, options.name or default_name(concepts)))
    trainer = ESDTrainer(pipe, config, run=run)
    processes = joined(pipe.device)
    if options.dry_run:
        plan = trainer.erase(concepts, name=options.name, dry_run=True)
        processes.from_main(lambda: print(plan))
        return
    layers, quoted = len(trainer.selection().names), ", ".join(map(repr, concepts))
    text = f"erasing {quoted}: {config.group}, up to {layers} layers, {config.iterations} iterations"
    if not options.quiet:
        processes.from_main(lambda: print(text, flush=True))
    erasure = trainer.erase(concepts, name=options.name)
    processes.from_main(lambda: _save(erasure, pipe, options, run))
    if not erasure.provenance.complete:
        raise KeyboardInterrupt


def _parts(options: argparse.Namespace, run: RunConfig, name: str | None = None) -> Parts:
    """What a training needs of the model. With a name, it is one that may go on from a checkpoint."""
    from ..training.checkpoint import resumed
    from ..training.encodings import ENCODINGS_NAME

    if options.check and run.free_text_encoders:
        raise ValueError(
            "--check draws with the text encoders, which --free-text-encoders drops. Leave one of them out; --offload "
            "brings the text encoders back at the end."
        )
    draws = options.check or run.sample_every is not None
    checkpoint = None if name is None or draws or options.dry_run else resumed(run, name)
    return Parts(
        draws=draws,
        encodes=checkpoint is None or not (checkpoint / ENCODINGS_NAME).is_file(),
        denoiser_waits=(run.offload or run.free_text_encoders) and not draws and not options.dry_run,
    )


def _save(erasure: Any, pipe: Any, options: argparse.Namespace, run: RunConfig) -> None:
    from ..summary import outcome

    folder = save(erasure, options)
    if text := outcome(erasure.config, erasure.provenance):
        print(text)
    if options.check and erasure.provenance.complete:
        print(erasure.check(pipe))
        erasure.save_pretrained(folder)
    write_config(folder, list(erasure.provenance.concepts), options, erasure.config, run)


def _erase_each(options: argparse.Namespace, config: ESDConfig, run: RunConfig) -> None:
    """Train an adapter for each concept of a file."""
    if options.further or options.name is not None:
        raise ValueError("--concepts gives each concept an adapter and a name; leave out --concept and --name.")
    if options.force:
        raise ValueError("--force cannot be used with --concepts; delete the folders to replace.")
    from ..training.launch import joined
    from ..training.series import check_each, erase_each, read_concepts, table
    from ..training.trainer import ESDTrainer, check_packages

    check_packages(config, run)
    concepts = read_concepts(options.concepts)
    there = check_each(concepts, options.output, config, run)
    pipe = load_pipeline(options, _parts(options, run))
    processes = joined(pipe.device)
    if options.dry_run:
        trainer = ESDTrainer(pipe, config, run=replace(run, data_parallel=False))
        if processes.is_main:
            for concept in concepts:
                print(f"{concept}: is there already" if concept in there else trainer.erase(concept, dry_run=True))
        return

    def report(outcome: Any) -> None:
        if outcome.status == "trained":
            write_config(outcome.folder, [outcome.concept], options, config, run)
        text = f"; {outcome.text}" if outcome.text else ""
        print(f"{outcome.concept}: {outcome.status}{text}", flush=True)

    outcomes = erase_each(pipe, concepts, options.output, config, run=run, check=options.check, report=report)
    processes.from_main(lambda: print(table(outcomes), flush=True))
    statuses = [outcome.status for outcome in outcomes]
    if "interrupted" in statuses:
        raise KeyboardInterrupt
    if failed := statuses.count("failed"):
        raise RuntimeError(f"{failed} of {len(concepts)} concepts failed.")
