"""The house: the layers of docs/architecture.md, short files and functions, PEFT in two files, tests beside modules."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest
from controls import must_fail

import diffusers_esd

PACKAGE = Path(diffusers_esd.__file__).parent
ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
HEAVY = ("torch", "diffusers", "peft", "transformers", "safetensors", "numpy")


def name_of(path: Path) -> str:
    """`families/base.py` -> `families.base`, `families/__init__.py` -> `families`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"}


def layers(page: str) -> dict[str, int]:
    """Height of each module in the page's block under `## Layers`, 0 for the lowest line."""
    section = page.partition("## Layers")[2]
    block = re.search(r"```text\n(.*?)```", section, re.DOTALL)
    assert block is not None, "docs/architecture.md has no block of layers"
    lines = block[1].splitlines()
    names = [name for line in lines for name in line.split()]
    assert len(names) == len(set(names)), "a module is in two layers"
    return {name: height for height, line in enumerate(lines) for name in line.split()}


LAYERS = layers(ARCHITECTURE)


# Imports.


def imported(source: str, package: list[str]) -> set[str]:
    """The package's own modules that a source imports, at its top or within functions.

    Args:
        source: Text of a module.
        package: The parts of the package it is in, below `diffusers_esd`.
    """
    own: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            own |= {".".join(parts[1:]) for parts in names if parts[0] == "diffusers_esd"}
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
            full = {".".join(filter(None, [module, alias.name])) for alias in node.names}
            own |= {name if name in LAYERS else module for name in full}
    return own


def check_imports(name: str, source: str) -> None:
    """Compare a module's imports with the layers."""
    package = list(MODULES[name].parent.relative_to(PACKAGE).parts)
    for other in imported(source, package):
        assert other in LAYERS, f"{name} imports {other}, which is not a module of the package"
        assert LAYERS[other] < LAYERS[name], f"{name} imports {other}, which is not below it"


def test_the_architecture_page_lists_every_module() -> None:
    assert set(LAYERS) == set(MODULES)
    tree = ARCHITECTURE.partition("## Layers")[0]
    assert {path.name for path in MODULES.values()} - set(re.findall(r"\w+\.py", tree)) <= {"__main__.py"}


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_to_lower_layers(name: str) -> None:
    check_imports(name, MODULES[name].read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("config", "from .training.trainer import ESDTrainer"),
        ("families.aura_flow", "from .flux import Flux"),
        ("training.pool", "def f():\n    from .trainer import ESDTrainer"),
        ("erasure", "from .nowhere import nothing"),
        ("training.pool", "def f():\n    from .. import ESDTrainer"),
        ("training.pool", "from diffusers_esd import ESDTrainer"),
        ("training.pool", "import diffusers_esd"),
    ],
)
def test_other_imports_are_seen(name: str, source: str) -> None:
    with must_fail("only lower modules may be imported"):
        check_imports(name, source)


@pytest.mark.parametrize(
    ("source", "package", "expected"),
    [
        ("from .trainer import ESDTrainer", ["training"], {"training.trainer"}),
        ("from . import adapter, erasure", [], {"adapter", "erasure"}),
        ("def f():\n    from diffusers_esd.training.trainer import ESDTrainer", [], {"training.trainer"}),
        ("import diffusers_esd.erasure", [], {"erasure"}),
        ("from .base import Family", ["families"], {"families.base"}),
        ("from ..networks import Networks", ["families"], {"networks"}),
        ("import torch\nfrom torch import nn", [], set()),
    ],
)
def test_the_walk_sees_every_form_of_import(source: str, package: list[str], expected: set[str]) -> None:
    assert imported(source, package) == expected


# Sizes.


def functions(source: str) -> Iterator[tuple[str, int]]:
    """Name and code lines of each function, without its docstring, comments and blank lines."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            code = lines[body[0].lineno - 1 : node.end_lineno] if body else []
            yield node.name, sum(bool(line.strip()) and not line.strip().startswith("#") for line in code)


def check_sizes(source: str) -> None:
    assert len(source.splitlines()) <= 250
    assert max((n for _, n in functions(source)), default=0) <= 40, sorted(functions(source), key=lambda f: -f[1])[:1]


@pytest.mark.parametrize("path", PACKAGE.rglob("*.py"), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_are_short(path: Path) -> None:
    check_sizes(path.read_text(encoding="utf-8"))


def test_long_ones_are_seen() -> None:
    with must_fail("a function of 41 lines"):
        check_sizes("def f():\n" + "    x = 1\n" * 41)
    with must_fail("a file of 251 lines"):
        check_sizes("x = 1\n" * 251)
    check_sizes('def f():\n    """Text.\n' + "\n" * 60 + '    """\n' + "    x = 1\n" * 40)


def test_half_of_the_functions_have_seven_lines_at_most() -> None:
    assert median(n for path in MODULES.values() for _, n in functions(path.read_text(encoding="utf-8"))) <= 7


# PEFT.

PEFT_FILES = ("denoiser", "adapter")
PEFT_NAMES = {
    "peft_config", "lora_A", "lora_B", "scaling", "active_adapters", "active_adapter", "set_adapter",
    "set_scale", "get_base_layer", "add_adapter", "load_lora_adapter", "delete_adapters", "unload_lora",
    "disable_adapters", "merged_adapters", "_active_adapter",
}  # fmt: skip


def peft_uses(source: str) -> set[str]:
    """Imports of PEFT, and attributes and strings that are PEFT's."""
    uses: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            uses |= {alias.name for alias in node.names if alias.name.split(".")[0] == "peft"}
        elif isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == "peft":
            uses.add(node.module or "")
        elif isinstance(node, ast.Attribute) and node.attr in PEFT_NAMES:
            uses.add(node.attr)
        elif isinstance(node, ast.Constant) and node.value in PEFT_NAMES:
            uses.add(node.value)
    return uses


@pytest.mark.parametrize("name", [name for name in MODULES if name not in PEFT_FILES])
def test_peft_is_used_in_two_files(name: str) -> None:
    assert not peft_uses(MODULES[name].read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", PEFT_FILES)
def test_peft_is_seen_where_it_is_used(name: str) -> None:
    with must_fail("these two use it"):
        assert not peft_uses(MODULES[name].read_text(encoding="utf-8"))


# One place for each thing.


def test_pipelines_are_called_and_denoisers_looked_up_in_one_place() -> None:
    for needle, home in (
        ("unwrap_module(", {"denoiser", "training.memory"}),
        ("pipe.unet", set()),
        ("pipe.transformer", set()),
        ('"_hf_hook"', {"denoiser"}),
        (".tmp", {"files"}),
        ("torch.randn(", {"streams"}),
        (".encode(batch)", {"training.encoding"}),
        ("output.images", {"pictures.draw"}),
    ):
        found = {name for name, path in MODULES.items() if needle in path.read_text(encoding="utf-8")}
        assert found == home, needle


# Tests.


TEST_FILES = {".".join(p.relative_to(TESTS).with_suffix("").parts): p for p in sorted(TESTS.rglob("test_*.py"))}
# Modules that are tested through others.
ELSEWHERE = {
    "app.forms": "app.test_page",
    "app.server": "app.test_page",
    "limits": "training.test_null_space",
    "run": "test_config",
    "training.begin": "training.test_checkpoint",
    "training.train": "whole.test_parity",
    "training.trajectory": "whole.test_parity",
    "evaluation.attacks.base": "evaluation.test_images",
    "evaluation.judges.base": "evaluation.test_judging",
    "families": "families.test_families",
    "families.base": "families.test_families",
    "families.stable_diffusion": "families.test_families",
    "families.stable_diffusion_3": "families.test_families",
    "families.flux": "families.test_families",
    "families.aura_flow": "families.test_families",
    "families.packed": "families.test_families",
    "families.sana": "families.test_families",
    "families.qwen_image": "families.test_families",
    "families.z_image": "families.test_families",
    "families.flux_2": "families.test_families",
    "families.kolors": "families.test_families",
    "families.wan": "families.test_families",
}


def test_tests_stand_beside_what_they_test() -> None:
    """`training.pool` is tested in `tests/training/test_pool.py`; tests of the whole package are in `tests/whole`."""
    beside = {re.sub(r"(^|\.)test_(\w+)$", r"\1\2", name) for name in TEST_FILES if not name.startswith("whole.")}
    assert beside <= {*MODULES, "families.families"}  # all families are tested in one file
    modules = {name for name, path in MODULES.items() if path.name not in ("__init__.py", "__main__.py")}
    assert modules - beside == set(ELSEWHERE) & modules
    assert set(ELSEWHERE.values()) <= set(TEST_FILES)


def private(source: str) -> set[str]:
    """Private names of the package that a test imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "diffusers_esd":
            parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            names |= {part for part in parts if part.startswith("_") and not part.startswith("__")}
    return names


# Names of PyTorch, diffusers, accelerate and IPython.
UPSTREAM = {
    "_repr_html_", "_repr_png_",
   "_compiled_call_impl", "_execution_device", "_forward_hooks", "_forward_pre_hooks", "_hf_hook", "_orig_mod",
    "_pack_latents", "_patchify_latents", "_progress_bar_config",
}  # fmt: skip


def private_attributes(source: str) -> set[str]:
    """Private attributes of anything but the test's own objects (`self`)."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)]
    own = {node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")}
    names = {node.attr for node in nodes if re.match(r"_[a-z]", node.attr)}
    return names - own - UPSTREAM


@pytest.mark.parametrize("name", TEST_FILES)
def test_no_test_uses_a_private_name(name: str) -> None:
    source = TEST_FILES[name].read_text(encoding="utf-8")
    assert not private(source)
    assert not private_attributes(source)


def test_private_names_are_seen() -> None:
    with must_fail("a private function"):
        assert not private("from diffusers_esd.cli.main import _parser")
    with must_fail("a private attribute"):
        assert not private_attributes("pool._networks")


# The package itself.


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
    for name in {*diffusers_esd.__all__} - {"__version__"}:
        assert getattr(diffusers_esd, name).__name__ == name
    with pytest.raises(AttributeError, match=r"^module 'diffusers_esd' has no attribute 'ESDtrainer'$"):
        _ = diffusers_esd.ESDtrainer
