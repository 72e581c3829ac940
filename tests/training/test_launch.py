"""Processes of a launcher find one another; a process without a launcher is alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from launched import Launcher
from torch import distributed

from diffusers_esd.training.launch import is_launched, joined, own_device


def test_without_a_launcher_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_launched()
    assert own_device("cuda") == "cuda"
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "1")):
        monkeypatch.setenv(name, value)
    assert not is_launched()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert is_launched()
    assert (own_device("cuda"), own_device("cuda:3"), own_device("cpu")) == ("cuda:1", "cuda:3", "cpu")


def places() -> list[Any]:
    """Rank, number and a value of all, again and again; which of the two connections is used."""
    seen: list[Any] = [is_launched(), distributed.is_initialized()]
    processes = joined(torch.device("cpu"), connected=False)
    seen += [processes.rank, processes.number, distributed.is_initialized()]
    for _ in range(2):
        processes = joined(torch.device("cpu"))
        seen.append((processes.collect(processes.rank), processes.from_main(lambda rank=processes.rank: rank)))
    processes = joined(torch.device("cpu"), enabled=False)
    seen.append((processes.rank, processes.number, processes.is_main))
    return seen


def test_processes_are_connected_when_they_join(launcher: Launcher, tmp_path: Path) -> None:
    for rank, seen in enumerate(launcher.run(tmp_path, places, n=3)):
        assert seen == [True, False, rank, 3, False, ([0, 1, 2], 0), ([0, 1, 2], 0), (0, 1, True)]


def failing() -> list[str]:
    """An error in one process; then all go on together."""
    found = []
    processes = joined(torch.device("cpu"))
    for decide in (lambda: 1 // (processes.rank - 1), lambda: 1 // processes.rank):
        try:
            processes.agree(decide)
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}")
    try:
        processes.from_main(lambda: 1 // processes.rank)
    except Exception as error:
        found.append(f"{type(error).__name__}: {error}")
    return [*found, *processes.collect("done")]


def test_an_error_in_one_process_is_an_error_in_all(launcher: Launcher, tmp_path: Path) -> None:
    own = "ZeroDivisionError: integer division or modulo by zero"
    others = [f"RuntimeError: Process {rank} of the training failed: {own}" for rank in (0, 1)]
    first, second = launcher.run(tmp_path, failing)
    assert first == [others[1], own, own, "done", "done"]
    assert second == [own, others[0], others[0], "done", "done"]
