"""Processes as a launcher starts them. They are forked from one process, which imports everything once."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_PARENT = """
import sys
sys.path[:0] = {path!r}
from launched import serve
serve()
"""


class Launcher:
    """Starts groups of processes, one group after the other."""

    def __init__(self) -> None:
        code = _PARENT.format(path=sys.path)
        self._parent = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, folder: Path, function: Callable[..., Any], n: int = 2, **arguments: Any) -> list[int]:
        """Call a function of a test module in n processes. Returns their ids.

        Args:
            folder: An empty folder for messages.
            function: The function.
            n: Number of processes.
            arguments: Its arguments.
        """
        assert self._parent.stdin is not None
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "call").write_bytes(pickle.dumps((function, arguments)))
        module = function.__module__
        where = Path(str(sys.modules[module].__file__)).parent
        self._parent.stdin.write(json.dumps([str(folder), n, module, str(where)]) + "\n")
        self._parent.stdin.flush()
        return self.read("started")

    def read(self, word: str, *, also: str = "") -> list[int]:
        """The numbers of the next line that begins so, after those of lines before it that begin with `also`."""
        assert self._parent.stdout is not None
        numbers: list[int] = []
        for line in self._parent.stdout:
            first, *others = line.split()
            if first in (word, also):
                numbers += map(int, others)
            if first == word:
                return numbers
            assert first != "ended", f"They ended with {others} before {word!r}."
        raise AssertionError("The parent ended.")

    def run(self, folder: Path, function: Callable[..., Any], n: int = 2, **arguments: Any) -> list[Any]:
        """The values that the function returns in n processes, or the texts of its errors."""
        self.start(folder, function, n, **arguments)
        self.read("ended")
        return [pickle.loads((folder / f"result-{rank}").read_bytes()) for rank in range(n)]

    def close(self) -> None:
        """End the parent."""
        self._parent.communicate()


def serve() -> None:
    """What the parent does: it imports a module of tests once, forks processes, and says how they ended."""
    for line in sys.stdin:
        folder, n, module, where = json.loads(line)
        if where not in sys.path:
            sys.path.insert(0, where)
        importlib.import_module(module)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        ids = [_forked(Path(folder), rank, n, port) for rank in range(n)]
        print("started", *ids, flush=True)
        print("ended", *(os.waitstatus_to_exitcode(os.waitpid(i, 0)[1]) for i in ids), flush=True)


def environment(rank: int, n: int, port: int) -> Mapping[str, str]:
    """What torchrun tells a process."""
    values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n, "LOCAL_WORLD_SIZE": n, "MASTER_PORT": port}
    return {**{key: str(value) for key, value in values.items()}, "MASTER_ADDR": "127.0.0.1"}


def _forked(folder: Path, rank: int, n: int, port: int) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        if n > 1:
            os.environ.update(environment(rank, n, port))
        function, arguments = pickle.loads((folder / "call").read_bytes())
        try:
            result, status = function(**arguments), 0
        except BaseException as error:
            result = f"{type(error).__name__}: {error}"
        (folder / f"result-{rank}").write_bytes(pickle.dumps(result))
    finally:
        os._exit(status)
