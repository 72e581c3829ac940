"""Tests of pages need a browser: without one they are skipped, or fail where `CI` is set."""

from __future__ import annotations

import shutil

import browser
import pytest


def test_a_missing_browser_skips_or_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=f"^{browser.MISSING}$"):
        browser.find_chromium()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=f"^{browser.MISSING}$"):
        browser.find_chromium()
    monkeypatch.setattr(shutil, "which", {"google-chrome": "/chrome"}.get)
    assert browser.find_chromium() == "/chrome"
