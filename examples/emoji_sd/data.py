"""The training images: icons of five openly licensed emoji sets, fetched with npm, rendered at 64 px.

Each drawing (200 of the preset `small`: 40 objects x 5 styles) is rendered once at high resolution, and placed on a
white 64 px canvas many times, a little smaller, shifted and rotated. `python -m emoji_sd.data` makes the files that the
training scripts read: `drawings.npz`, for which npm is needed, and from it the training images. Files that exist are
not made again: delete them after a change of the vocabulary.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from .preset import CACHE, PRESETS
from .vocabulary import STYLES, Vocabulary

SIZE = 64
VERSIONS = {
    "twemoji": "1.2.5",
    "noto": "1.2.9",
    "fluent-emoji-flat": "1.2.6",
    "fluent-emoji-high-contrast": "1.2.6",
    "emojione": "1.2.3",
}
_RENDER = 4 * SIZE


def fetch(package: str, cache: Path = CACHE) -> dict[str, dict]:
    """The icons of one Iconify set by name, from its npm package.

    Args:
        package: Package name without its scope, one of `STYLES`' values.
        cache: Folder for the downloaded package.
    """
    cache.mkdir(parents=True, exist_ok=True)
    archive = cache / f"iconify-json-{package}-{VERSIONS[package]}.tgz"
    if not archive.exists():
        name = f"@iconify-json/{package}@{VERSIONS[package]}"
        subprocess.run(["npm", "pack", "--silent", name], cwd=cache, check=True)
    with tarfile.open(archive) as tar:
        member = tar.extractfile("package/icons.json")
        assert member is not None
        icons = json.load(member)
    found = dict(icons["icons"])
    for alias, target in icons.get("aliases", {}).items():
        if target["parent"] in found:
            found.setdefault(alias, found[target["parent"]])
    width, height = icons.get("width", 16), icons.get("height", 16)
    return {name: {"width": width, "height": height, **icon} for name, icon in found.items()}


def render(icon: dict) -> Image.Image:
    """One icon on white, `4 * SIZE` pixels square."""
    import resvg_py

    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {icon["width"]} {icon["height"]}" color="#000">{icon["body"]}</svg>'
    )
    png = resvg_py.svg_to_bytes(svg_string=svg, width=_RENDER, height=_RENDER, background="#ffffff")
    return Image.open(io.BytesIO(bytes(png))).convert("RGB")


def drawings(vocabulary: Vocabulary, cache: Path) -> Mapping[str, np.ndarray]:
    """Every drawing at high resolution: `"mono/cat"` -> (H, W, 3) uint8.

    Args:
        vocabulary: The objects.
        cache: Folder that keeps the finished file, `drawings.npz`.
    """
    path = cache / "drawings.npz"
    if not path.exists():
        rendered: dict[str, np.ndarray] = {}
        for style, package in STYLES.items():
            icons = fetch(package)
            rendered |= {f"{style}/{o}": np.asarray(render(icons[vocabulary.icon(o)])) for o in vocabulary.objects}
            print(f"rendered {style}", flush=True)
        cache.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".tmp").open("wb") as file:
            np.savez_compressed(file, **rendered)
        path.with_suffix(".tmp").rename(path)
    return np.load(path)


def augment(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The drawing at `SIZE` pixels: 82-96 % of the canvas, shifted by up to 2 pixels, rotated by up to 5 degrees."""
    side = round(_RENDER * rng.uniform(0.82, 0.96))
    shift = rng.uniform(-8, 8, size=2)
    corner = np.round((_RENDER - side) / 2 + shift).astype(int)
    turned = picture.rotate(rng.uniform(-5, 5), Image.Resampling.BICUBIC, fillcolor=(255, 255, 255))
    canvas = Image.new("RGB", (_RENDER, _RENDER), (255, 255, 255))
    canvas.paste(turned.resize((side, side), Image.Resampling.LANCZOS), (int(corner[0]), int(corner[1])))
    return canvas.resize((SIZE, SIZE), Image.Resampling.BOX)


def make(vocabulary: Vocabulary, augmentations: int, seed: int, cache: Path) -> dict[str, torch.Tensor]:
    """The data set: `pictures` (N, 3, 64, 64) uint8, `objects` (N,) and `styles` (N,) as indices.

    Read from `cache` if it was made before with the same arguments.

    Args:
        vocabulary: The objects.
        augmentations: Images per drawing, usually 12 to 24.
        seed: Seed of the augmentations.
        cache: Folder that keeps the drawings and the finished file.
    """
    path = cache / f"pictures-{augmentations}-{seed}.safetensors"
    if path.exists():
        return load_file(path)
    rng = np.random.default_rng(seed)
    pictures, objects, styles = [], [], []
    rendered = drawings(vocabulary, cache)
    for s, style in enumerate(STYLES):
        for o, word in enumerate(vocabulary.objects):
            picture = Image.fromarray(rendered[f"{style}/{word}"])
            pictures += [np.asarray(augment(picture, rng)) for _ in range(augmentations)]
            objects += [o] * augmentations
            styles += [s] * augmentations
        print(f"augmented {style}", flush=True)
    data = {
        "pictures": torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous(),
        "objects": torch.tensor(objects),
        "styles": torch.tensor(styles),
    }
    save_file(data, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").rename(path)
    return data


def to_model(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 images as the autoencoder's input, float32 in [-1, 1]."""
    return pictures.float().div_(127.5).sub_(1.0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--augmentations", type=int, help="images per drawing; the preset's if not given")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    preset = PRESETS[arguments.preset]
    augmentations = arguments.augmentations or preset.augmentations
    data = make(preset.vocabulary, augmentations, arguments.seed, preset.cache)
    print({name: tuple(t.shape) for name, t in data.items()})
