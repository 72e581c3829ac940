"""One thing at a time, in order; what is cancelled ends, and what fails says why."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from diffusers_esd.app.job import CancelledError, Job, Jobs, explained
from diffusers_esd.arguments import warn_user


@dataclass
class Act:
    """An action that waits until it may go on, then calls a function."""

    then: Callable[[Job], None] = lambda job: None
    go: threading.Event = field(default_factory=threading.Event)
    begun: threading.Event = field(default_factory=threading.Event)
    title: str = "acting"
    code: str = "act()"

    def run(self, pipe: Any, job: Job) -> None:
        self.begun.set()
        assert self.go.wait(20)
        self.then(job)


@pytest.fixture
def own() -> Iterator[Jobs]:
    jobs = Jobs(None)
    yield jobs
    jobs.close()


def test_one_at_a_time_in_order(own: Jobs, ended: Any) -> None:
    order: list[str] = []
    acts = [Act(then=lambda job: order.append(job.visitor)) for _ in range(3)]
    started = [own.start(visitor, act) for visitor, act in zip("abc", acts, strict=True)]
    assert acts[0].begun.wait(20)
    assert [job.view.state for job in started] == ["running", "waiting", "waiting"]
    assert [own.before(job) for job in started] == [0, 1, 2]
    for act in reversed(acts):
        act.go.set()
    for job in started:
        assert ended(job).view.state == "done"
    assert order == ["a", "b", "c"]
    assert own.of("a") is started[0]
    assert own.of("d") is None


def test_a_visitor_has_one_job(own: Jobs, ended: Any) -> None:
    act = Act()
    job = own.start("a", act)
    with pytest.raises(ValueError, match=r"^Still busy: acting\. Wait for its end, or cancel it\.$"):
        own.start("a", Act())
    act.go.set()
    ended(job)
    again = Act()
    again.go.set()
    assert ended(own.start("a", again)).number > job.number


def test_a_job_that_waits_is_cancelled_before_it_starts(own: Jobs, ended: Any) -> None:
    first, second = Act(), Act()
    job, waiting = own.start("a", first), own.start("b", second)
    waiting.cancel()
    first.go.set()
    assert ended(job).view.state == "done"
    assert ended(waiting).view.state == "stopped"
    assert not second.begun.is_set()


def test_a_job_that_runs_sees_that_it_is_cancelled(own: Jobs, ended: Any) -> None:
    def check(job: Job) -> None:
        job.cancel()
        job.check()

    act = Act(then=check)
    act.go.set()
    assert ended(own.start("a", act)).view.state == "stopped"
    with pytest.raises(CancelledError):
        own.of("a").check()
    Job("a", act).check()  # one that is not cancelled goes on


def test_errors_and_warnings_are_shown_and_the_next_job_starts(own: Jobs, ended: Any) -> None:
    def fail(job: Job) -> None:
        warn_user("A warning of the package.")
        warn_user("A warning of the package.")
        warnings.warn("of no use to a visitor", DeprecationWarning, stacklevel=1)
        raise ValueError("It cannot be so.")

    act = Act(then=fail)
    act.go.set()
    view = ended(own.start("a", act)).view
    assert (view.state, view.now, view.notes) == ("failed", "It cannot be so.", ("A warning of the package.",))
    act.then = lambda job: None
    assert ended(own.start("a", act)).view.state == "done"


def test_an_error_that_is_not_the_packages_names_its_kind() -> None:
    assert explained(KeyError("x")) == "KeyError: 'x'"
    assert explained(ValueError("Text.")) == "Text."
    assert explained(RuntimeError()) == "RuntimeError: without a message"
    error = ValueError("Text.")
    error.add_note("Note.")
    assert explained(error) == "Text. Note."


def test_what_has_changed_is_numbered() -> None:
    job = Job("a", Act())
    job.show(now="one", share=0.1)
    job.show(now="two")
    assert job.view.changes == {"now": 2, "share": 1}


def test_closing_ends_everything() -> None:
    jobs = Jobs(None)
    act = Act()
    jobs.start("a", act)
    waiting = jobs.start("b", Act())
    assert act.begun.wait(20)
    threading.Timer(0.05, act.go.set).start()
    jobs.close()
    assert jobs.of("a").has_ended
    assert waiting.view.state == "stopped"
