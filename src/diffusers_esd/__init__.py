"""Erase concepts from text-to-image models of diffusers, as small portable LoRA adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .version import __version__

if TYPE_CHECKING:
    from .check import Check
    from .config import ESDConfig
    from .erasure import Erasure
    from .evaluation.evaluate import evaluate
    from .exchange import export, import_erasure
    from .families import Family
    from .limits import Limits
    from .objective import esd_target
    from .pictures.plot import plot_history
    from .pictures.preview import preview
    from .provenance import Provenance
    from .report import Report
    from .run import RunConfig
    from .stacks.bake import bake
    from .stacks.calibrate import calibrate
    from .stacks.merge import merge
    from .stacks.recipe import Recipe
    from .stacks.refine import refine
    from .stacks.stack import stack
    from .training.plan import Plan
    from .training.progress import Progress
    from .training.series import Outcome, erase_each
    from .training.trainer import ESDTrainer

_HOME = {
    "Check": "check",
    "ESDConfig": "config",
    "ESDTrainer": "training.trainer",
    "Erasure": "erasure",
    "Family": "families",
    "Limits": "limits",
    "Outcome": "training.series",
    "Plan": "training.plan",
    "Progress": "training.progress",
    "Provenance": "provenance",
    "Recipe": "stacks.recipe",
    "Report": "report",
    "RunConfig": "run",
    "bake": "stacks.bake",
    "calibrate": "stacks.calibrate",
    "erase_each": "training.series",
    "esd_target": "objective",
    "evaluate": "evaluation.evaluate",
    "export": "exchange",
    "import_erasure": "exchange",
    "merge": "stacks.merge",
    "plot_history": "pictures.plot",
    "preview": "pictures.preview",
    "refine": "stacks.refine",
    "stack": "stacks.stack",
}

__all__ = [
    "Check",
    "ESDConfig",
    "ESDTrainer",
    "Erasure",
    "Family",
    "Limits",
    "Outcome",
    "Plan",
    "Progress",
    "Provenance",
    "Recipe",
    "Report",
    "RunConfig",
    "__version__",
    "bake",
    "calibrate",
    "erase_each",
    "esd_target",
    "evaluate",
    "export",
    "import_erasure",
    "merge",
    "plot_history",
    "preview",
    "refine",
    "stack",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that `import diffusers_esd` is light."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOME[name]}", __name__), name)
