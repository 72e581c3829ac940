"""The command `erase`, which trains. Its options are the fields of `ESDConfig` and `RunConfig`."""

from __future__ import annotations

import argparse
from typing import Any

from ..config import ESDConfig
from ..run import RunConfig
from .options import add_command, add_fields, add_model, add_output, check_output, given_fields, load_pipeline, save


def add_commands(commands: Any) -> None:
    """Add the command."""
    erase = add_command(commands, "erase", _erase, "train an erasure")
    add_output(erase)
    add_model(erase)
    erase.add_argument("concept", help='words of the concept, in quotes if there are several: "Van Gogh"')
    further = "a further concept that the same adapter erases; may be repeated"
    erase.add_argument("--concept", dest="further", action="append", default=[], metavar="CONCEPT", help=further)
    erase.add_argument("--name", help="name of the adapter")
    erase.add_argument("--dry-run", action="store_true", help="print what would be trained and its cost, then stop")
    erase.add_argument("--check", action="store_true", help="afterwards, draw check.png and print the alignments")
    add_fields(erase.add_argument_group("what is learned, the fields of ESDConfig"), ESDConfig)
    add_fields(erase.add_argument_group("how it runs, the fields of RunConfig"), RunConfig)


def _erase(options: argparse.Namespace) -> None:
    config, run = ESDConfig(**given_fields(options, ESDConfig)), RunConfig(**given_fields(options, RunConfig))
    from ..summary import outcome
    from ..training.trainer import ESDTrainer

    check_output(options)
    pipe = load_pipeline(options)
    trainer = ESDTrainer(pipe, config, run=run)
    concepts = [options.concept, *options.further]
    if options.dry_run:
        print(trainer.erase(concepts, name=options.name, dry_run=True))
        return
    layers, quoted = len(trainer.selection().names), ", ".join(map(repr, concepts))
    print(f"erasing {quoted}: {config.group}, up to {layers} layers, {config.iterations} iterations")
    erasure = trainer.erase(concepts, name=options.name)
    save(erasure, options)
    if text := outcome(config, erasure.provenance):
        print(text)
    if options.check and erasure.provenance.complete:
        print(erasure.check(pipe))
        erasure.save_pretrained(options.output)
    if not erasure.provenance.complete:
        raise KeyboardInterrupt
