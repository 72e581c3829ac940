"""The command `ui`: the app in a browser."""

from __future__ import annotations

import argparse
import signal
import threading
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .model import add_model, load_pipeline
from .options import add_command

_SMALL = "emoji_sd"
_LOCAL = ("127.0.0.1", "localhost", "::1")


def add_commands(commands: Any) -> None:
    """Add the command."""
    text = "open the app in a browser: erase, compare, stack, measure, export"
    parser = add_command(commands, "ui", _ui, text)
    add_model(parser, optional=True)
    given = parser.add_argument_group("the app")
    text = "the small model that `demo` uses, in place of a model; needs no network"
    given.add_argument("--demo", action="store_true", help=text)
    text = "folder of all that the app writes and reads (default: %(default)s)"
    given.add_argument("-o", "--output", type=Path, default=Path("app-output"), help=text)
    text = "address to listen on; 0.0.0.0 lets other computers in (default: %(default)s, this computer only)"
    given.add_argument("--host", default=_LOCAL[0], help=text)
    given.add_argument("--port", type=int, default=7860, help="port to listen on (default: %(default)s)")
    text = "who judges: a name, see the documentation, or module:name (default: CLIP; with --demo, its own)"
    given.add_argument("--judge", help=text)


def _ui(options: argparse.Namespace) -> None:
    if options.demo == (options.model is not None):
        raise ValueError("Give a model, or --demo for the small one.")
    if options.demo and find_spec(_SMALL) is None:
        raise ImportError('`ui --demo` needs the small model: pip install "diffusers-esd[demo]".')
    from ..evaluation.extras import import_extra

    for package in ("gradio", "matplotlib"):
        import_extra(package, "ui")
    options.output.mkdir(parents=True, exist_ok=True)
    from ..app.server import served

    desk = _desk(options)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as after Ctrl-C, so that nothing is lost
    with served(desk, options.model or _SMALL, host=options.host, port=options.port) as address:
        print(f"{address}  (everything is saved in {options.output}; Ctrl-C ends it)", flush=True)
        threading.Event().wait()


def _desk(options: argparse.Namespace) -> Any:
    """What the page can do with the model."""
    from ..app.desk import Desk
    from ..app.job import Jobs
    from ..app.judge import JudgeChoice

    judge = JudgeChoice(options.judge or (f"{_SMALL}.recogniser:EmojiJudge" if options.demo else None))
    judge.made()  # for its errors, before the model is loaded
    settings: dict[str, Any] = {}
    if options.demo:
        small = import_module(_SMALL)
        pipe, loading = small.load(), f"from {_SMALL} import load\n\npipe = load()"
        settings = {"settings": lambda group, together: small.settings(group, anchor=together)}
    else:
        pipe = load_pipeline(options)
        loading = loading_code(options, pipe)
    is_local = options.host in _LOCAL
    return Desk(options.output, Jobs(pipe), loading=loading, judge=judge, is_local=is_local, **settings)


def loading_code(options: argparse.Namespace, pipe: Any) -> str:
    """Code that loads the pipeline as this command did, without a token."""
    from ..app.code import Name, call

    name = type(pipe).__name__
    given = {name: getattr(options, name) for name in ("variant", "revision") if getattr(options, name) is not None}
    if options.model_config is not None:
        given["config"] = options.model_config
    method = "from_single_file" if Path(options.model).is_file() else "from_pretrained"
    loaded = call(f"{name}.{method}", options.model, dtype=Name(pipe.dtype), **given)
    moved = "" if pipe.device.type == "cpu" else f".to({str(pipe.device)!r})"
    return f"import torch\nfrom diffusers import {name}\n\npipe = {loaded}{moved}"
