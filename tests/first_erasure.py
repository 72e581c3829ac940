"""How long it takes from an empty environment to a saved erasure: `python tests/first_erasure.py FOLDER`.

A new environment, `pip install` of this checkout and of the small model, an erasure of a style with the command, and
the file read with plain diffusers. Each step is timed. It needs the standard library of Python alone.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import time
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIMIT = 180.0
"""Seconds from an empty environment to a saved erasure that are promised."""
MODEL = "from emoji_sd.preset import SMALL; print(SMALL.file('model_index.json').parent)"
SETTINGS = "import json; from emoji_sd import settings; print(json.dumps(settings('esd-x')))"
LOAD = """
import sys
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1])
pipe.load_lora_weights(sys.argv[2], adapter_name="no-mono")
assert pipe.get_active_adapters() == ["no-mono"]
assert "diffusers_esd" not in sys.modules
"""


def timed(text: str, seconds: dict[str, float], *command: str | Path) -> str:
    """Run a command, and add its seconds under a name. Returns what it prints."""
    print(f"{text} ...", flush=True)
    start = time.perf_counter()
    done = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True)
    seconds[text] = time.perf_counter() - start
    return done.stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the environment and the erasure; it is emptied first")
    parser.add_argument("pip", nargs=argparse.REMAINDER, help="further options of `pip install`")
    options = parser.parse_args()
    shutil.rmtree(options.folder, ignore_errors=True)
    seconds: dict[str, float] = {}
    start = time.perf_counter()
    venv.create(options.folder / "env", with_pip=True)
    seconds["environment"] = time.perf_counter() - start
    python, command = options.folder / "env/bin/python", options.folder / "env/bin/diffusers-esd"
    install = [python, "-m", "pip", "install", "-q", *options.pip]
    timed("install", seconds, *install, ROOT, ROOT / "examples/emoji_sd")
    model = timed("find the model", seconds, python, "-c", MODEL)
    config, erasure = options.folder / "settings.json", options.folder / "no-mono"
    config.write_text(timed("settings", seconds, python, "-c", SETTINGS))
    timed("erase", seconds, command, "erase", model, "art in mono style", "-o", erasure, "--config", config)
    timed("load", seconds, python, "-c", LOAD, model, erasure)
    for name, value in seconds.items():
        print(f"{name:>16} {value:7.1f} s")
    total = sum(value for name, value in seconds.items() if name != "load")
    print(f"{'saved after':>16} {total:7.1f} s; the aim is {LIMIT:.0f} s")
    return 0 if total < LIMIT else 1


if __name__ == "__main__":
    raise SystemExit(main())
