"""Signals wait for the end of an iteration, and the handlers are those from before."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from controls import must_fail

from diffusers_esd.training.interruption import Interruption


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Python's own handler of Ctrl-C, and afterwards those from before."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def interrupted(presses: int) -> bool:
    """Whether an interruption is requested after so many Ctrl-C."""
    with Interruption() as interruption:
        assert not interruption.requested
        for _ in range(presses):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return interruption.requested


def test_the_first_ctrl_c_waits_and_the_second_does_not() -> None:
    assert interrupted(1)
    with must_fail("nothing was pressed"):
        assert interrupted(0)
    with pytest.raises(KeyboardInterrupt):
        interrupted(2)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_sigterm_is_raised_again_at_the_end() -> None:
    calls: list[str] = []
    signal.signal(signal.SIGTERM, lambda *_: calls.append("mine"))
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGTERM)
        assert interruption.requested
        assert not calls
    assert calls == ["mine"]
    with Interruption():
        pass
    assert calls == ["mine"], "the control: without a signal nothing is raised"


@pytest.mark.parametrize(("level", "raised"), [(0, []), (1, []), (2, ["mine"])])
def test_the_sigterm_of_another_process_is_heeded(level: int, raised: list[str]) -> None:
    calls: list[str] = []
    signal.signal(signal.SIGTERM, lambda *_: calls.append("mine"))
    with Interruption() as interruption:
        interruption.heed(level)
        assert interruption.level == (level if raised else 0)
    assert calls == raised


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_ignored_stays_ignored(number: int) -> None:
    signal.signal(number, signal.SIG_IGN)
    with Interruption() as interruption:
        signal.raise_signal(number)
    assert not interruption.requested
    assert signal.getsignal(number) is signal.SIG_IGN


def test_a_handler_of_the_user_for_ctrl_c_stays() -> None:
    calls: list[str] = []
    signal.signal(signal.SIGINT, lambda *_: calls.append("mine"))
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGINT)
    assert calls == ["mine"]
    assert not interruption.requested


def test_outside_the_main_thread_nothing_is_changed() -> None:
    seen: list[Any] = []

    def inside() -> None:
        with Interruption():
            seen.append(signal.getsignal(signal.SIGINT))

    def run(function: Callable[[], None]) -> None:
        thread = threading.Thread(target=function)
        thread.start()
        thread.join()

    run(inside)
    assert seen == [signal.default_int_handler]
    inside()
    with must_fail("in the main thread it is"):
        assert seen[1] is signal.default_int_handler
