"""`Interruption`: Ctrl-C and SIGTERM wait for the end of an iteration, so that no weights are half updated."""

from __future__ import annotations

import signal
import threading
from typing import Any


class Interruption:
    """A context in which Ctrl-C and SIGTERM set `requested`. A second Ctrl-C interrupts at once.

    At the end the handlers are those from before, and a SIGTERM is raised again. Outside the main thread, which alone
    can set handlers, nothing is changed. A user's own handler of Ctrl-C stays, and a signal that is ignored stays
    ignored.

    Attributes:
        requested: Whether the training must end after this iteration.
    """

    def __init__(self) -> None:
        self.requested = False
        self._terminated = False
        self._before: dict[int, Any] = {}

    @property
    def level(self) -> int:
        """0 for none, 1 for Ctrl-C, 2 for SIGTERM."""
        return 2 if self._terminated else int(self.requested)

    def heed(self, level: int) -> None:
        """End by SIGTERM, if another process of the training does, whose level is 2."""
        if level == 2 and signal.SIGTERM in self._before:
            self.requested = self._terminated = True

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._interrupt)
            if signal.getsignal(signal.SIGTERM) not in (signal.SIG_IGN, None):  # `None`: not set by Python
                self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._terminate)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._terminated:
            signal.raise_signal(signal.SIGTERM)

    def _interrupt(self, *_: object) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def _terminate(self, *_: object) -> None:
        self.requested = self._terminated = True
