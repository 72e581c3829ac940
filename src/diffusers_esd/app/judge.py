"""`JudgeChoice`: who judges the images of the app's evaluations."""

from __future__ import annotations

from dataclasses import dataclass

from ..evaluation.judges.base import Judge
from ..evaluation.judges.named import judge_named
from .code import call


@dataclass(frozen=True)
class JudgeChoice:
    """A judge by name.

    Attributes:
        name: A name, or `module:name` of one's own; `None` is the suite's own, CLIP.
    """

    name: str | None = None

    def made(self) -> list[Judge] | None:
        """The judges for `evaluate`.

        Raises:
            ValueError: If there is no judge of this name.
            FileNotFoundError: If its weights are missing.
            ImportError: If its package is missing.
        """
        return None if self.name is None else [judge_named(self.name)]

    @property
    def imports(self) -> list[str]:
        """Lines of code that import it."""
        if self.name is None:
            return []
        module, colon, attribute = self.name.partition(":")
        if colon:
            return [f"from {module} import {attribute}"]
        return ["from diffusers_esd.evaluation.judges.named import judge_named"]

    @property
    def code(self) -> str:
        """The expression that makes it."""
        _, colon, attribute = (self.name or "").partition(":")
        return call(attribute) if colon else call("judge_named", self.name)
