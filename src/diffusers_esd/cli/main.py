"""`diffusers-esd`: the package from a shell. Parsing and messages; what is done is done elsewhere.

The options of a training are the fields of `ESDConfig` and `RunConfig`, with their documentation. PyTorch is imported
when a command needs it, so that `--help` and `info` answer at once.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from ..config import ESDConfig
from ..run import RunConfig

_MODEL = "folder or Hub id of a pipeline"
_ERASURE = "folder, file or Hub id of an erasure"
_LABELS = {"left_out": "left_out, layers by reason", "leaks": "leaks, the largest"}
_SCALED = f"{_ERASURE}, with its scale: no-cat=0.8; 1 by default"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0, 1 after a reported error, 2 for a wrong call, 130 after Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="diffusers-esd", description="Erase concepts from text-to-image models.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str, *, output: str | None = None) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        if output:
            added.add_argument("-o", "--output", type=Path, required=True, help=output)
        return added

    def with_model(added: argparse.ArgumentParser) -> None:
        added.add_argument("model", help=_MODEL)
        added.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="of the weights")
        added.add_argument("--device", help="cuda, mps, cpu; the best there is by default")

    def with_pictures(added: argparse.ArgumentParser) -> None:
        added.add_argument("--prompt", action="append", required=True, help="what to draw; may be repeated")
        added.add_argument("--seeds", type=int, nargs="+", default=[0])
        added.add_argument("--steps", type=int, default=25, help="denoising steps")

    erase = command("erase", _erase, "train an erasure", output="folder for it")
    with_model(erase)
    erase.add_argument("concept", nargs="+", help="the concept in words, or several erased together")
    erase.add_argument("--name", help="of the adapter")
    erase.add_argument("--dry-run", action="store_true", help="only say what would be trained and what it would cost")
    _add_fields(erase.add_argument_group("what is learned, the fields of ESDConfig"), ESDConfig)
    _add_fields(erase.add_argument_group("how it runs, the fields of RunConfig"), RunConfig)

    preview = command("preview", _preview, "draw with an erasure at several scales", output="picture to write")
    with_model(preview)
    preview.add_argument("erasure", help=_ERASURE)
    preview.add_argument("--scales", type=float, nargs="+", default=[0.0, 0.5, 1.0, 1.5])
    with_pictures(preview)

    stack = command("stack", _stack, "draw without and with several erasures together", output="picture to write")
    with_model(stack)
    stack.add_argument("erasures", nargs="+", metavar="erasure[=scale]", help=_SCALED)
    with_pictures(stack)

    merge = command("merge", _merge, "make one erasure of several", output="folder for it")
    merge.add_argument("erasures", nargs="+", metavar="erasure[=scale]", help=_SCALED)
    merge.add_argument("--rank", type=int, help="best approximation of this rank; exact by default")
    merge.add_argument("--name", help="of the result")

    bake = command("bake", _bake, "write a pipeline with erasures in its weights", output="new folder for it")
    with_model(bake)
    bake.add_argument("erasures", nargs="+", metavar="erasure[=scale]", help=_SCALED)

    export = command("export", _export, "write a file for ComfyUI, Forge, A1111", output="file, .safetensors")
    export.add_argument("erasure", help=_ERASURE)

    imported = command("import", _import, "read an eraser of another tool", output="folder for the erasure")
    imported.add_argument("file", type=Path, help="its .safetensors file")
    with_model(imported)
    imported.add_argument("--concept", required=True, help="what it erases")
    imported.add_argument("--name", help="of the erasure")
    imported.add_argument("--rank", type=int, default=16, help="for a file of full weights")

    push = command("push", _push, "publish an erasure on the Hugging Face Hub")
    push.add_argument("erasure", help=_ERASURE)
    push.add_argument("repo_id", help="user/name")
    push.add_argument("--private", action="store_true", default=None)

    info = command("info", _info, "show what an erasure is, without loading a model")
    info.add_argument("erasure", help=_ERASURE)
    return parser


def _add_fields(group: Any, kind: type) -> None:
    """An option for each field of a configuration, with its documentation."""
    text = (kind.__doc__ or "").partition("Attributes:")[2]
    described = dict(re.findall(r"^ {8}(\w+): (.*?)(?=^ {8}\w+: |\Z)", text, re.MULTILINE | re.DOTALL))
    types = get_type_hints(kind)
    for field in fields(kind):
        allowed = get_args(types[field.name]) or (types[field.name],)
        options: dict[str, Any] = {"help": " ".join(described[field.name].split()).replace("%", "%%")}
        if field.name == "preserve":
            options |= {"nargs": "*", "metavar": "PROMPT"}
        elif allowed == (bool,):
            options["action"] = argparse.BooleanOptionalAction
        elif all(isinstance(value, str) for value in allowed):
            options["choices"] = allowed
        else:
            options["type"] = next(t for t in allowed if isinstance(t, type) and t is not type(None))
        group.add_argument("--" + field.name.replace("_", "-"), default=argparse.SUPPRESS, **options)


def _given(options: argparse.Namespace, kind: type) -> dict[str, Any]:
    """The fields of a configuration that were given."""
    values = {field.name: getattr(options, field.name) for field in fields(kind) if hasattr(options, field.name)}
    if values.get("preserve") == ["vocabulary"]:
        values["preserve"] = "vocabulary"
    return values


def _pipeline(options: argparse.Namespace, *, exact: bool = False) -> Any:
    """The pipeline; `exact` is in the files' own type on the CPU, for work on the weights themselves."""
    import torch
    from diffusers import DiffusionPipeline

    if exact:
        from ..files import stored_dtypes

        local = Path(options.model)
        folder = local if local.is_dir() or options.dtype else Path(DiffusionPipeline.download(options.model))
        # from_pretrained does not take dtype="auto", and loads in float32 without a dtype.
        dtypes = getattr(torch, options.dtype) if options.dtype else {"default": torch.float32, **stored_dtypes(folder)}
        return DiffusionPipeline.from_pretrained(options.model, dtype=dtypes).to(options.device or "cpu")
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = options.device or best
    half = "bfloat16" if device.startswith("cuda") and torch.cuda.is_bf16_supported() else "float16"
    dtype = getattr(torch, options.dtype or ("float32" if device == "cpu" else half))
    return DiffusionPipeline.from_pretrained(options.model, dtype=dtype).to(device)


def _read(text: str) -> Any:
    from ..erasure import Erasure

    return Erasure.from_pretrained(text)


def _scaled(texts: Sequence[str]) -> dict[Any, float]:
    """Erasures and their scales, of `erasure` and `erasure=scale`."""
    scales = {}
    for text in texts:
        name, _, scale = text.rpartition("=")
        is_scaled = name and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", scale)
        scales[_read(name if is_scaled else text)] = float(scale) if is_scaled else 1.0
    return scales


def _erase(options: argparse.Namespace) -> None:
    config, run = ESDConfig(**_given(options, ESDConfig)), RunConfig(**_given(options, RunConfig))
    from ..storage import check_folder
    from ..training.trainer import ESDTrainer

    check_folder(options.output)
    trainer = ESDTrainer(_pipeline(options), config, run=run)
    if options.dry_run:
        print(trainer.erase(options.concept, name=options.name, dry_run=True))
        return
    erasure = trainer.erase(options.concept, name=options.name)
    print(erasure.save_pretrained(options.output))
    if not erasure.provenance.complete:
        raise KeyboardInterrupt


def _preview(options: argparse.Namespace) -> None:
    _draw(options, {_read(options.erasure): 1.0}, options.scales)


def _stack(options: argparse.Namespace) -> None:
    _draw(options, _scaled(options.erasures), [0.0, 1.0])


def _draw(options: argparse.Namespace, erasures: dict[Any, float], scales: Sequence[float]) -> None:
    from ..pictures.preview import preview

    if not options.output.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {options.output.parent}.")

    image = preview(
        _pipeline(options),
        erasures,
        options.prompt,
        scales=scales,
        seeds=options.seeds,
        num_inference_steps=options.steps,
    )
    image.save(options.output)
    print(options.output)


def _merge(options: argparse.Namespace) -> None:
    from ..stacks.merge import merge

    merged = merge(_scaled(options.erasures), rank=options.rank, name=options.name)
    print(merged.save_pretrained(options.output))
    if merged.provenance.rank_error:
        print(f"relative error of rank {merged.rank}: {merged.provenance.rank_error:.2%}")


def _bake(options: argparse.Namespace) -> None:
    from ..stacks.bake import bake

    bake(_pipeline(options, exact=True), _scaled(options.erasures), save_to=options.output)
    print(options.output)


def _export(options: argparse.Namespace) -> None:
    from ..exchange import export

    print(export(_read(options.erasure), options.output))


def _import(options: argparse.Namespace) -> None:
    from ..exchange import import_erasure

    erasure = import_erasure(
        options.file, _pipeline(options, exact=True), concept=options.concept, name=options.name, rank=options.rank
    )
    print(erasure.save_pretrained(options.output))
    if erasure.provenance.rank_error:
        print(f"relative error of rank {erasure.rank}: {erasure.provenance.rank_error:.2%}")


def _push(options: argparse.Namespace) -> None:
    print(_read(options.erasure).push_to_hub(options.repo_id, private=options.private))


def _info(options: argparse.Namespace) -> None:
    from .. import hub
    from ..files import HEADER_KEY, WEIGHTS_NAME, read_header
    from ..provenance import read_record
    from ..summary import curve

    file = hub.locate(options.erasure, WEIGHTS_NAME, token=None, revision=None)
    header = read_header(file)
    if HEADER_KEY not in header:
        raise ValueError(f"{file} is not an erasure: {HEADER_KEY!r} is missing in its header.")
    try:
        record = json.loads(header[HEADER_KEY])
        name, config, provenance = read_record(record)
        history = curve([aligned for _, aligned in provenance.history])
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"{file} is damaged or of a newer version ({error}); fetch it again.") from error
    lines = {
        "name": name,
        "rank": record.get("rank"),
        **provenance.to_dict(),
        **({} if config is None else config.to_dict()),
    }
    lines |= {"left_out": {reason: len(names) for reason, names in provenance.left_out.items()}}
    lines |= {"leaks": max(provenance.leaks.values(), default=None)}
    for key, value in lines.items():
        if key != "history" and value not in (None, "", (), {}):
            print(f"{_LABELS.get(key, key)}: {json.dumps(value, ensure_ascii=False)}")
    if history:
        print(f"alignment, from first to last: {history}")


if __name__ == "__main__":
    sys.exit(main())
