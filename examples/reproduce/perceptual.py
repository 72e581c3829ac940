"""The judges of styles and artworks: how far an image is from the base model's."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusers_esd.evaluation.judges.base import Judge
from diffusers_esd.evaluation.judges.clip import CLIP, VIT_L_14, CLIPScore, CLIPSimilarity
from diffusers_esd.evaluation.judges.lpips import LPIPS
from diffusers_esd.evaluation.judges.st_lpips import STLPIPS

from .command import device_of

JUDGES = ("lpips", "st-lpips", "clip-similarity", "clip-score")


def add_perceptual(parser: Any, default: Sequence[str] = ("lpips", "clip-similarity")) -> None:
    """Add the options of `perceptual`."""
    text = f"who compares: {', '.join(JUDGES)}; may be repeated (default: {' and '.join(default)})"
    parser.add_argument("--judge", action="append", choices=JUDGES, help=text)
    parser.add_argument(
        "--net", choices=("alex", "vgg"), default="alex", help="network of LPIPS (default: %(default)s)"
    )
    parser.add_argument("--lpips-weights", type=Path, metavar="FILE", help="weights of that (default: look for them)")
    parser.add_argument("--clip", default=VIT_L_14, help="folder or Hub id of the CLIP model (default: %(default)s)")
    parser.set_defaults(default_judges=tuple(default))


def perceptual(options: argparse.Namespace) -> list[Judge]:
    """The judges that were chosen."""
    device = device_of(options)
    chosen = dict.fromkeys(options.judge or options.default_judges)
    download = {"device": device, "allow_download": options.allow_download}
    clip = CLIP(options.clip, **download) if any(name.startswith("clip") for name in chosen) else None
    make = {
        "lpips": lambda: LPIPS(options.net, weights=options.lpips_weights, **download),
        "st-lpips": lambda: STLPIPS(options.net, device=device),
        "clip-similarity": lambda: CLIPSimilarity(clip),
        "clip-score": lambda: CLIPScore(clip),
    }
    return [make[name]() for name in chosen]
