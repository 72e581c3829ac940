"""`Desk`: what the page can do for a visitor. It turns what a form contains into an action, and starts it as a job.

A form can send anything, so names are looked up in the visitor's folder, and every value is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..arguments import check_prompt, check_scale
from .folder import Shelf
from .job import Action, Job, Jobs
from .judge import JudgeChoice
from .sharing import Exported, Merged, Published
from .stacking import Calibrated, Compared, Evaluated
from .training import WORDS, Planned, Request, Trained

Settings = Callable[[str, bool], Mapping[str, Any]]
"""Fields of `ESDConfig` for a group, which may depend on whether the erasure will act together with others."""

FIELDS = ("iterations", "rank", "learning_rate", "eta", "seed")
"""Fields of `ESDConfig` that the page asks for as text; empty means the default."""


def defaults(group: str, together: bool) -> dict[str, Any]:
    """The package's defaults, with an anchor for an erasure that will act together with others."""
    return {"anchor": "auto"} if together else {}


@dataclass(frozen=True)
class Desk:
    """What the page can do.

    Attributes:
        output: The app's folder.
        jobs: The jobs.
        loading: Code that loads the pipeline as `pipe`.
        settings: The settings of a training.
        judge: Who judges.
        is_local: Whether only this computer can open the page. Otherwise, a visitor must give a token of their own.
    """

    output: Path
    jobs: Jobs
    loading: str = ""
    settings: Settings = defaults
    judge: JudgeChoice = field(default_factory=JudgeChoice)
    is_local: bool = True

    def shelf(self, visitor: str) -> Shelf:
        """The files of a visitor."""
        return Shelf(self.output, visitor)

    def plan(self, visitor: str, form: Mapping[str, Any]) -> Job:
        """A dry run."""
        return self.jobs.start(visitor, Planned(self._request(visitor, form)))

    def erase(self, visitor: str, form: Mapping[str, Any]) -> Job:
        """A training."""
        return self.jobs.start(visitor, Trained(self._request(visitor, form), self.shelf(visitor)))

    def compare(self, visitor: str, scales: Mapping[str, Any], form: Mapping[str, Any]) -> Job:
        """Images without and with the stack."""
        first, number, steps = (_whole(form[name]) for name in ("first seed", "seeds", "steps"))

        def made(shelf: Shelf, checked: Mapping[str, float]) -> Action:
            prompts, seeds = lines(form["prompts"]), range(first, first + number)
            return Compared(shelf, checked, prompts, seeds, steps, explicit=form["explicit"] is True)

        return self._start(visitor, scales, made)

    def calibrate(self, visitor: str, scales: Mapping[str, Any], form: Mapping[str, Any]) -> Job:
        """The smallest scales that are enough together; the form is empty."""
        return self._start(visitor, scales, Calibrated)

    def measure(self, visitor: str, scales: Mapping[str, Any], form: Mapping[str, Any]) -> Job:
        """The suite `quick`."""

        def made(shelf: Shelf, checked: Mapping[str, float]) -> Action:
            return Evaluated(shelf, checked, shelf.free_name("report"), self.judge, _whole(form["steps"]))

        return self._start(visitor, scales, made)

    def merge(self, visitor: str, scales: Mapping[str, Any], form: Mapping[str, Any]) -> Job:
        """The stack as one erasure."""

        def made(shelf: Shelf, checked: Mapping[str, float]) -> Action:
            return Merged(shelf, checked, shelf.free_name(form["name"]))

        return self._start(visitor, scales, made)

    def export(self, visitor: str, scales: Mapping[str, Any], form: Mapping[str, Any]) -> Job:
        """The stack as a file for other tools."""

        def made(shelf: Shelf, checked: Mapping[str, float]) -> Action:
            return Exported(shelf, checked, form["name"], form["tool"])

        return self._start(visitor, scales, made)

    def publish(self, visitor: str, scales: Mapping[str, Any], form: Mapping[str, Any]) -> Job:
        """The stack on the Hub.

        Raises:
            ValueError: If the visitor is not sure, or is not at this computer and has not given a token.
        """
        if form["sure"] is not True:
            raise ValueError("Tick that it may be published: anyone who has the file can load it at the scale -1.")
        token = form["token"] or None
        if not self.is_local and token is None:
            raise ValueError("Give a token of your account that can write: this app uses nobody else's.")

        def made(shelf: Shelf, checked: Mapping[str, float]) -> Action:
            return Published(shelf, checked, form["repo_id"], form["private"] is not False, token)

        return self._start(visitor, scales, made)

    def cancel(self, visitor: str) -> None:
        """End the visitor's job, if there is one."""
        if (job := self.jobs.of(visitor)) is not None:
            job.cancel()

    def scales(self, visitor: str) -> dict[str, float]:
        """The visitor's stack."""
        return self.shelf(visitor).scales()

    def rescale(self, visitor: str, name: str, scale: float) -> None:
        """Set the scale of an erasure in the visitor's stack."""
        shelf = self.shelf(visitor)
        shelf.keep({**shelf.scales(), name: check_scale("scale", scale)})

    def _request(self, visitor: str, form: Mapping[str, Any]) -> Request:
        if form["words"] not in WORDS:
            raise ValueError(f"Choose when it must disappear: {' or '.join(WORDS)}.")
        group = WORDS[form["words"]]
        settings = {"group": group, **self.settings(group, form["together"] is True)}
        settings |= {name: _number(name, form[name]) for name in FIELDS if form[name]}
        if synonyms := lines(form["synonyms"]):
            settings["synonyms"] = synonyms
        concept = check_prompt("concept", form["concept"]).strip()
        name = self.shelf(visitor).name_for(concept)
        return Request(concept, name, settings, tuple(lines(form["prompts"])), explicit=form["explicit"] is True)

    def _start(
        self, visitor: str, scales: Mapping[str, Any], made: Callable[[Shelf, Mapping[str, float]], Action]
    ) -> Job:
        """Save the stack, and start what is asked of it."""
        shelf = self.shelf(visitor)
        checked = {name: check_scale("scale", scale) for name, scale in scales.items()}
        shelf.sources(checked)  # for its errors
        action = made(shelf, checked)
        shelf.keep(checked)
        return self.jobs.start(visitor, action)


def lines(text: object) -> list[str]:
    """The lines of a text, without empty ones."""
    return [line.strip() for line in str(text or "").splitlines() if line.strip()]


def _number(name: str, text: object) -> int | float:
    """The number that a text is.

    Raises:
        ValueError: If it is not one.
    """
    try:
        number = float(str(text))
        return int(number) if number == int(number) else number
    except (ValueError, OverflowError) as error:
        raise ValueError(f"`{name}` must be a number, or empty for the default; got {text!r}.") from error


def _whole(number: Any) -> int:
    """A whole number of a form, whose numbers may be floats.

    Raises:
        ValueError: If it is missing or not a whole number.
    """
    if number is None or number != int(number):
        raise ValueError(f"Give a whole number; got {number!r}.")
    return int(number)
