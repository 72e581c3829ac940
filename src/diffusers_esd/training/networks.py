"""Teacher and student, one denoiser: predictions at positions of a schedule, for encoded prompts.

Every prediction is counted in samples (a batch of three counts as three). Network evaluations are the cost of a
training, and unlike seconds they do not depend on the machine.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..adapter import Adapter
from ..families import Schedule
from .encoding import Encoded


class Networks:
    """Predictions of a denoiser with our adapter off (teacher) and on (student).

    Args:
        schedule: The schedule that positions refer to.
        adapter: Our adapter on the schedule's denoiser.
        encoded: The prompts of the predictions, with the empty one.

    Attributes:
        evaluations: Samples evaluated so far: `"no_grad"` and `"grad"`.
    """

    def __init__(self, schedule: Schedule, adapter: Adapter, encoded: Encoded) -> None:
        self.schedule = schedule
        self._adapter = adapter
        self._encoded = encoded
        self.evaluations = {"no_grad": 0, "grad": 0}

    @torch.no_grad()
    def teacher(self, x_t: Tensor, position: Tensor, *prompts: Sequence[str]) -> tuple[Tensor, ...]:
        """The teacher's predictions for the same states under several prompts, in one batch without gradient.

        Args:
            x_t: States, (B, C, H, W).
            position: Where in the schedule each stands, (B,).
            prompts: Lists of B prompts.

        Returns:
            One prediction (B, C, H, W) for each list.
        """
        n = len(prompts)
        with self._adapter.off():
            flat = [prompt for batch in prompts for prompt in batch]
            e = self._predict(torch.cat([x_t] * n), position.repeat(n), flat)
        return e.chunk(n)

    def student(self, x_t: Tensor, position: Tensor, prompts: Sequence[str]) -> Tensor:
        """The student's predictions (B, C, H, W), with gradient if the caller has it enabled."""
        return self._predict(x_t, position, prompts)

    def _predict(self, x_t: Tensor, position: Tensor, prompts: Sequence[str]) -> Tensor:
        self.evaluations["grad" if torch.is_grad_enabled() else "no_grad"] += len(prompts)
        return self.schedule.predict(x_t, position, self._encoded.rows(prompts))
