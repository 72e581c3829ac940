"""The layers of the package: a module imports from lower ones only, and the package itself from none until used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from controls import must_fail

import diffusers_esd

ROOT = Path(diffusers_esd.__file__).parent

# Lowest first. A module may import those of earlier rows; within a family, its base.
LAYERS: list[set[str]] = [
    {"config", "files", "hub", "kohya", "limits", "objective", "products", "progress", "scales", "streams"},
    {"denoiser", "groups", "provenance", "run"},
    {"adapter", "families.base"},
    {"families.schedules"},
    {"families.stable_diffusion", "families.stable_diffusion_3", "families.flux", "families.aura_flow"},
    {"families"},
    {"encoding", "erasure"},
    {"moments", "networks", "sources", "vocabulary"},
    {"compose", "null_space", "trajectory"},
    {"formats", "pictures", "pool"},
    {"prompts", "training"},
    {"plan"},
    {"record"},
    {"trainer"},
    {"cli"},
]
LAYER = {name: height for height, names in enumerate(LAYERS) for name in names}
HEAVY = ("torch", "diffusers", "peft", "transformers", "safetensors", "numpy")


def name_of(path: Path) -> str:
    """`families/base.py` -> `families.base`, `families/__init__.py` -> `families`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imported(source: str, package: list[str]) -> set[str]:
    """The package's own modules that a source imports, at its top or within functions.

    Args:
        source: Text of a module.
        package: The parts of the package it is in, below `diffusers_esd`.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            own = [alias.name.partition(".")[2] for alias in node.names if alias.name.startswith("diffusers_esd.")]
            found |= {name for name in LAYER if name in own}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                start = package[: len(package) - node.level + 1]
            elif (node.module or "").split(".")[0] == "diffusers_esd":
                start = []
            else:
                continue
            below = (node.module or "").split(".") if node.level else (node.module or "").split(".")[1:]
            module = ".".join([*start, *filter(None, below)])
            # `from . import adapter` names modules, `from .adapter import load` what is in one.
            names = {".".join(filter(None, [module, alias.name])) for alias in node.names}
            found |= {name if name in LAYER else module for name in names} - {""}
    return found


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py")) if path != ROOT / "__init__.py"}


def test_every_module_has_a_layer() -> None:
    assert set(MODULES) == set(LAYER)


def check_imports(name: str, source: str) -> None:
    """Hold a module's source to the layers."""
    package = list(MODULES[name].parent.relative_to(ROOT).parts)
    for other in imported(source, package):
        assert other in LAYER, f"{name} imports {other}, which is not a module of the package"
        assert LAYER[other] < LAYER[name], f"{name} imports {other}, which is not below it"


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_to_lower_layers(name: str) -> None:
    check_imports(name, MODULES[name].read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("config", "from .trainer import ESDTrainer"),
        ("families.flux", "from .aura_flow import AuraFlow"),
        ("cli", "from .nowhere import nothing"),
    ],
)
def test_other_imports_are_seen(name: str, source: str) -> None:
    with must_fail("only lower modules may be imported"):
        check_imports(name, source)


@pytest.mark.parametrize(
    ("source", "package", "expected"),
    [
        ("from .trainer import ESDTrainer", [], {"trainer"}),
        ("from . import adapter, erasure", [], {"adapter", "erasure"}),
        ("def f():\n    from diffusers_esd.training.trainer import ESDTrainer", [], {"trainer"}),
        ("import diffusers_esd.erasure", [], {"erasure"}),
        ("from .base import Family", ["families"], {"families.base"}),
        ("from ..networks import Networks", ["families"], {"networks"}),
        ("import torch\nfrom torch import nn", [], set()),
    ],
)
def test_the_walk_sees_every_form_of_import(source: str, package: list[str], expected: set[str]) -> None:
    assert imported(source, package) == expected


def loaded_by(statement: str) -> list[str]:
    """Which of the heavy packages a new process has loaded after importing ours and a statement."""
    code = f"import sys, diffusers_esd; {statement}; print([m for m in {HEAVY} if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    return ast.literal_eval(printed.splitlines()[-1])


@pytest.mark.parametrize("statement", ["pass", "diffusers_esd.ESDConfig()"])
def test_importing_the_package_is_light(statement: str) -> None:
    assert loaded_by(statement) == []


def test_using_the_trainer_is_not_light() -> None:
    with must_fail("the trainer needs torch"):
        assert "torch" not in loaded_by("diffusers_esd.ESDTrainer")


def test_public_names_are_all_there() -> None:
    for name in diffusers_esd.__all__:
        assert getattr(diffusers_esd, name).__name__ == name
    with pytest.raises(AttributeError, match=r"^module 'diffusers_esd' has no attribute 'ESDtrainer'$"):
        _ = diffusers_esd.ESDtrainer
