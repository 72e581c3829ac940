"""Extras: a package that is missing is named with the command that installs it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from diffusers_esd.evaluation.extras import folder_of, import_extra, package_record


def test_a_package_that_is_there_is_imported() -> None:
    assert import_extra("torch", "fid") is torch
    assert import_extra("torch.nn", "fid") is torch.nn
    assert folder_of("torch", "fid") == Path(torch.__file__).parent
    assert package_record("torch") == {"package": "torch", "version": torch.__version__}


def test_a_missing_package_is_named_with_the_command() -> None:
    message = r'^no_such_package is not installed: pip install "diffusers-esd\[fid\]"\.$'
    for ask in (import_extra, folder_of):
        with pytest.raises(ImportError, match=message):
            ask("no_such_package", "fid")
    with pytest.raises(ImportError, match=message):
        import_extra("no_such_package.models", "fid")


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("import no_such_package", ModuleNotFoundError, r"^No module named 'no_such_package'$"),
        (
            "raise RuntimeError('operator nms does not exist')",
            ImportError,
            r"^broken is installed, but does not load: oper",
        ),
    ],
    ids=["a package it needs is missing", "built for another torch"],
)
def test_a_package_that_is_broken_says_why(
    source: str, error: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(error, match=message):
        import_extra("broken", "fid")
    assert "broken" not in sys.modules
