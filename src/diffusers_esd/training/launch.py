"""The processes that a launcher has started: `accelerate launch`, `torchrun`, `notebook_launcher`.

accelerate connects them, over NCCL on GPUs and over gloo on CPUs, if their script has not done so. A second connection,
over gloo, is for messages on the CPU.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from .processes import Processes

_TIMEOUT = timedelta(days=30)  # a process may wait for one that trains; if that one ends, it gets an error at once

_groups: dict[Any, Any] = {}  # by the first connection, the second


def is_launched() -> bool:
    """Whether a launcher has started several processes, of which this is one."""
    return _place()[1] > 1


def _place() -> tuple[int, int]:
    """Number of this process, and number of processes."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    if {"RANK", "LOCAL_RANK", "WORLD_SIZE"} <= os.environ.keys():
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    return 0, 1


def own_device(device: str) -> str:
    """The device of this process: under a launcher, `"cuda"` is the GPU with the number of the process."""
    if device != "cuda" or not is_launched():
        return device
    rank, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    return f"cuda:{rank % gpus if gpus else rank}"  # a process may see its own GPU alone


def joined(device: torch.device, *, enabled: bool = True, connected: bool = True) -> Processes:
    """The processes that a launcher has started. Without a launcher, this process alone.

    Args:
        device: Where this process computes.
        enabled: `False` leaves each process alone.
        connected: `False` only says how many they are, and waits for none.
    """
    if not (enabled and is_launched()):
        return Processes()
    if not connected:
        return Processes(*_place())
    from accelerate import PartialState

    PartialState(cpu=device.type == "cpu")  # connects the processes, if their script has not done so
    world = distributed.group.WORLD
    if world not in _groups:
        _groups[world] = distributed.new_group(backend="gloo", timeout=_TIMEOUT)
    return Processes(*_place(), _groups[world])
