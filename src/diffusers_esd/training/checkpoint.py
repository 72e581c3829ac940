"""Checkpoints: all that a training needs to go on, bit for bit as if it had not been interrupted.

A checkpoint is a folder `output_dir/<adapter name>/checkpoint-N`, after N iterations, with three files:

    checkpoint.json        which training it belongs to
    state.pt               what was prepared before the first iteration, and what iterations change
    encodings.safetensors  the encoded prompts that the iterations need

A folder appears whole or not at all: it is written under another name, synced to the disk and renamed. Older ones are
deleted only after that.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..arguments import warn_user
from ..files import remove_folder, remove_leftovers, sync, whole
from ..run import LATEST, RunConfig
from .anchors import Anchors
from .encodings import Encodings
from .identity import OtherTrainingError, check_same, identify
from .null_space import NullSpace
from .prompts import Prompts
from .task import Task
from .vocabulary import Preserved

RECORD_NAME = "checkpoint.json"
STATE_NAME = "state.pt"

_EVERY = 100  # iterations
_UNREADABLE = (OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError, EOFError, pickle.PickleError)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a training knows before its first iteration, and no iteration changes.

    Attributes:
        prompts: The prompts.
        encodings: The encoded prompts that the iterations need.
        anchors: The anchor of each concept.
        space: The null space, if there is one.
        fixed_a: A of each layer, (rank, d, ...), if it is fixed.
    """

    prompts: Prompts
    encodings: Encodings
    anchors: Anchors
    space: NullSpace | None
    fixed_a: Mapping[str, Tensor] | None

    def state_dict(self) -> dict[str, Any]:
        """The fields but `encodings`, as types that PyTorch reads without running code. Tensors are not copied."""
        return {
            "prompts": asdict(self.prompts),
            "anchors": asdict(self.anchors),
            "space": None if self.space is None else vars(self.space),
            "fixed_a": self.fixed_a,
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any], encodings: Encodings) -> Prepared:
        """The fields that `state_dict` returned, and the encodings."""
        prompts, space = state["prompts"], state["space"]
        return cls(
            prompts=Prompts(**{**prompts, "preserved": Preserved(**prompts["preserved"])}),
            encodings=encodings,
            anchors=Anchors(**state["anchors"]),
            space=None if space is None else NullSpace(**space),
            fixed_a=state["fixed_a"],
        )


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint that was read.

    Attributes:
        path: Its folder.
        prepared: What the training had prepared.
        training: The `state_dict` of its `Training`.
        seconds: Time that the training took.
    """

    path: Path
    prepared: Prepared
    training: Mapping[str, Any]
    seconds: float


class Checkpoints:
    """Writes the checkpoints of a training, in the main process.

    Args:
        task: The training.
        prepared: What it has prepared.
        resumed: The checkpoint that it goes on from.
        started: `time.monotonic()` at its start, earlier by the time that it took before the checkpoint.

    Attributes:
        folder: Where they are; `None` writes none.
        resumed: The checkpoint that the training goes on from.
        last: The newest checkpoint of the training.
    """

    def __init__(self, task: Task, prepared: Prepared, resumed: Checkpoint | None, started: float) -> None:
        self.folder, self.resumed = task.run.folder(task.name), resumed
        self.last = None if resumed is None else resumed.path
        self._every, self._keep = task.run.checkpoint_every or _EVERY, task.run.keep_checkpoints
        self._prepared, self._started = prepared, started
        self._training: Mapping[str, Any] = {}
        if not task.processes.is_main:
            self.folder = None
        if self.folder is not None:
            concepts, processes = task.prompts.concepts, task.processes.number
            self._training = identify(
                task.family, task.config, task.limits, concepts, task.beside, task.start, processes
            )

    def is_due(self, iterations: int) -> bool:
        """Whether to save after so many iterations."""
        return iterations % self._every == 0

    def save(self, iterations: int, training: Mapping[str, Any]) -> None:
        """Write a checkpoint, if there is a folder and it is not there already; then delete older ones.

        Args:
            iterations: Their number.
            training: The `state_dict` of the `Training`, between two iterations.

        Warns:
            UserWarning: If it cannot be written. The training goes on, and the checkpoints that exist stay.
        """
        if self.folder is None or self.last == (path := self.folder / f"checkpoint-{iterations}"):
            return
        seconds = time.monotonic() - self._started
        try:
            with whole(path) as temporary:
                temporary.mkdir()
                record, state = temporary / RECORD_NAME, temporary / STATE_NAME
                record.write_text(json.dumps({"training": self._training}, indent=2) + "\n", encoding="utf-8")
                torch.save({"prepared": self._prepared.state_dict(), "training": training, "seconds": seconds}, state)
                encodings = self._prepared.encodings.write(temporary, self._training, self.last)
                sync(record, state, encodings, temporary)
                if path.exists():  # of the same training, which was resumed from an older checkpoint
                    remove_folder(path)
            sync(self.folder)
            self.last = path
            self._delete_others(iterations)
        except (OSError, RuntimeError) as error:  # a full disk: PyTorch makes it a RuntimeError
            warn_user(f"{path} could not be written, or older ones not deleted ({error}).")

    def explain(self, error: BaseException) -> None:
        """Add to an error where the newest checkpoint is."""
        if self.last is not None:
            error.add_note(f"The training can go on from its last checkpoint: resume={str(self.last)!r}.")

    def _delete_others(self, iterations: int) -> None:
        assert self.folder is not None
        found = _found(self.folder)
        kept = sorted(n for n in found if n <= iterations)[-self._keep :]
        for n in found.keys() - set(kept):
            remove_folder(found[n])


def find(run: RunConfig, name: str, training: Mapping[str, Any]) -> Checkpoint | None:
    """The checkpoint to go on from, if there is one. Leftovers of an interrupted write are removed.

    Args:
        run: Where checkpoints are, and which one to take.
        name: Name of the adapter.
        training: What `identify` returned.

    Raises:
        FileNotFoundError: If `resume` is not a checkpoint.
        NotADirectoryError: If the folder is a file.
        PermissionError: If the folder is not writable.
        FileExistsError: If the folder contains checkpoints that the new training would mix with its own.
        ValueError: If the checkpoint is damaged, or belongs to another training; the message names what differs.
    """
    folder = run.folder(name)
    found: dict[int, Path] = {}
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise NotADirectoryError(f"`output_dir` must be a folder; {error.filename} is a file.") from error
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} is not writable; give another `output_dir`.")
        remove_leftovers(folder)
        found = _found(folder)
    path = resumed(run, name)
    if found and (path is None or path.parent != folder):
        raise FileExistsError(
            f"{folder} contains checkpoints of an earlier training: go on from them with resume='latest', delete "
            "them, or give another `output_dir`."
        )
    return None if path is None else _read(path, training)


def resumed(run: RunConfig, name: str) -> Path | None:
    """The folder of the checkpoint to go on from; `None` starts from the beginning. Nothing is read.

    Args:
        run: Where checkpoints are, and which one to take.
        name: Name of the adapter.
    """
    if run.resume != LATEST:
        return None if run.resume is None else Path(run.resume).resolve()
    folder = run.folder(name)
    found = {} if folder is None or not folder.is_dir() else _found(folder)
    return found[max(found)] if found else None


def _found(folder: Path) -> dict[int, Path]:
    """The checkpoints in a folder by their number of iterations."""
    names = ((re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in folder.iterdir() if path.is_dir())
    return {int(match[1]): path for match, path in names if match}


def _read(path: Path, training: Mapping[str, Any]) -> Checkpoint:
    if not (path / RECORD_NAME).is_file():
        raise FileNotFoundError(
            f"`resume` must be 'latest' or the folder of a checkpoint, got {str(path)!r}, which has no {RECORD_NAME}."
        )
    try:
        saved = json.loads((path / RECORD_NAME).read_text(encoding="utf-8"))["training"]
        check_same(path, dict(saved), training)
        state = torch.load(path / STATE_NAME, map_location="cpu", weights_only=True)
        prepared = Prepared.from_state_dict(state["prepared"], Encodings.read(path, training))
        return Checkpoint(path=path, prepared=prepared, training=state["training"], seconds=state["seconds"])
    except OtherTrainingError:
        raise
    except _UNREADABLE as error:
        # PyTorch's messages go on with advice to read files that can run code.
        what = str(error).partition(". ")[0]
        raise ValueError(f"{path} is damaged ({what}); resume an older checkpoint, or delete it.") from error
