"""Controls are counted, with and without workers, and one that does not fail is seen."""

from __future__ import annotations

from pathlib import Path

import controls
import pytest
import torch
from controls import must_fail

pytest_plugins = "pytester"

GOOD = """
from controls import must_fail

def test_a_claim():
    with must_fail("one is not two"):
        assert 1 == 2
    with must_fail("nor three"):
        assert 1 == 3

def test_another():
    with must_fail("two is not one"):
        assert 2 == 1

def test_without_a_control():
    pass
"""
BAD = """
from controls import must_fail

def test_a_bad_control():
    with must_fail("one is one"):
        assert 1 == 1
"""
ERROR = """
import pytest
from controls import must_fail

@pytest.fixture
def checked():
    yield
    with must_fail("after the test"):
        assert False

def test_an_error(checked):
    with must_fail("something else went wrong"):
        raise KeyError
"""
NONE = "def test_nothing(): pass"


ALONE, TWO = ["-p", "no:xdist"], ["-n", "2", "--dist", "worksteal"]


@pytest.mark.parametrize(
    ("workers", "sources", "line", "passed", "failed"),
    [
        (ALONE, [GOOD], "controls: 3 of 3 failed as they must", 3, 0),
        (ALONE, [GOOD, BAD, ERROR], "controls: 4 of 6 failed as they must", 3, 2),
        (TWO, [GOOD, BAD, ERROR], "controls: 4 of 6 failed as they must", 3, 2),
    ],
    ids=["all", "one did not, one stopped", "two workers"],
)
def test_controls_are_counted(
    workers: list[str], sources: list[str], line: str, passed: int, failed: int, pytester: pytest.Pytester
) -> None:
    run(pytester, sources, workers, line, passed=passed, failed=failed)


def run(pytester: pytest.Pytester, sources: list[str], workers: list[str], line: str, **outcomes: int) -> None:
    """Run tests with our conftest in a process of their own, and look for a line and for what came of them."""
    tests = Path(__file__).parents[1]
    pytester.makeconftest((tests / "conftest.py").read_text(encoding="utf-8"))
    pytester.makeini(f"[pytest]\npythonpath = {tests}")
    pytester.makepyfile(**{f"test_{i}": source for i, source in enumerate(sources)})
    result = pytester.runpytest_subprocess(*workers)
    result.assert_outcomes(**outcomes)
    result.stdout.fnmatch_lines([line])


def test_a_run_without_controls_says_nothing_of_them(pytester: pytest.Pytester) -> None:
    run(pytester, [NONE], ALONE, "*1 passed*", passed=1)


def test_must_fail_takes_failed_assertions_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controls, "_ended", [])
    with must_fail("assert"):
        assert torch.zeros(1).item()
    with must_fail("a comparison of tensors"):
        torch.testing.assert_close(torch.zeros(1), torch.ones(1))
    with pytest.raises(KeyError), must_fail("an error is not a failed assertion"):
        raise KeyError
    with (
        pytest.raises(AssertionError, match=r"^This control did not fail as it must: zero is not one.$"),
        must_fail("zero is not one"),
    ):
        assert torch.ones(1).item()
    assert controls.take() == (4, 2)
    assert controls.take() == (0, 0)
