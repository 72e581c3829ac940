"""The version has one place."""

from __future__ import annotations

import re
from importlib.metadata import version

import pytest

import diffusers_esd
from diffusers_esd.cli import main


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", diffusers_esd.__version__)
    assert version("diffusers-esd") == diffusers_esd.__version__
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--version"])
    assert capsys.readouterr().out == f"diffusers-esd {diffusers_esd.__version__}\n"
