"""Packages of an extra: imported where they are used, and what to do if one is missing."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def import_extra(module: str, extra: str) -> Any:
    """Import a package of an extra.

    Args:
        module: Name of the module, such as `"nudenet"`.
        extra: The extra of this package that installs it.

    Raises:
        ImportError: If it is not installed, with the command that installs it, or if it is installed and broken.
    """
    package = module.partition(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ImportError(_command(package, extra), name=package) from error
    except RuntimeError as error:  # torchvision, beside a version of PyTorch that it was not built for
        raise ImportError(f"{package} is installed, but does not load: {error}.", name=package) from error


def folder_of(package: str, extra: str) -> Path:
    """The folder of an installed package, which is not imported.

    Raises:
        ImportError: If it is not installed, with the command that installs it.
    """
    found = find_spec(package)
    if found is None or found.origin is None:
        raise ImportError(_command(package, extra), name=package)
    return Path(found.origin).parent


def package_record(distribution: str) -> dict[str, str]:
    """Name and version of an installed distribution, for a report."""
    return {"package": distribution, "version": version(distribution)}


def _command(package: str, extra: str) -> str:
    return f'{package} is not installed: pip install "diffusers-esd[{extra}]".'
