"""One thread for each worker, nothing is fetched, the controls are counted, and what takes long is made once."""

from __future__ import annotations

import os

# Before torch is imported: the sums it makes depend on the number of threads.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import controls
import pytest
from filelock import FileLock
from launched import Launcher

pytest_plugins = ("browser",)

# A worker takes these first, so that no worker is left with a long test at the end.
LONGEST_FIRST = ("test_quality.py", "test_documentation.py", "test_null_space.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files; the order within a file stays."""
    order = {name: i for i, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Send the number of controls with the report: reports travel from the workers to the process that prints."""
    item.user_properties.append(("controls", controls.take()))
    return (yield)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how many controls ran and failed as they must."""
    # The last report of a test, its teardown's, has the numbers of all three.
    reports = [r for group in terminalreporter.stats.values() for r in group if getattr(r, "when", "") == "teardown"]
    counts = [value for report in reports for name, value in report.user_properties if name == "controls"]
    if run := sum(n for n, _ in counts):
        terminalreporter.write_line(f"controls: {sum(failed for _, failed in counts)} of {run} failed as they must")


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """`once(name, make)`: the path of a file or a folder that `make(path)` writes, once for all workers of a run."""
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "once"
    folder.mkdir(exist_ok=True)

    def once(name: str, make: Callable[[Path], object]) -> Path:
        path, unfinished = folder / name, folder / f"{name}.unfinished"
        with FileLock(folder / f"{name}.lock"):
            if not path.exists():
                make(unfinished)
                unfinished.rename(path)
        return path

    return once


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    """One for all tests of a worker: what its processes import is imported once."""
    launcher = Launcher()
    yield launcher
    launcher.close()
