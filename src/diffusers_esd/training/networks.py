"""Teacher and student, one denoiser: predictions at positions of a schedule, for prompts encoded before.

Every prediction is counted in samples (a batch of three is three), because network evaluations are what a training
costs and, unlike seconds, they do not depend on the machine.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..adapter import Adapter
from .encoding import Encoded
from ..families import Family


class Networks:
    """Predictions of a denoiser with our adapter off (teacher) and on (student).

    Args:
        family: The family, with its schedule set.
        adapter: Our adapter on its denoiser.
        encoded: The prompts that predictions will be asked for, the empty one among them.

    Attributes:
        evaluations: Samples evaluated so far: `"no_grad"` and `"grad"`.
    """

    def __init__(self, family: Family, adapter: Adapter, encoded: Encoded) -> None:
        self.family = family
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
            rows = [prompt for prompts_of_batch in prompts for prompt in prompts_of_batch]
            e = self._predict(torch.cat([x_t] * n), position.repeat(n), rows)
        return e.chunk(n)

    def student(self, x_t: Tensor, position: Tensor, prompts: Sequence[str]) -> Tensor:
        """The student's predictions (B, C, H, W), with gradient where the caller has it enabled."""
        return self._predict(x_t, position, prompts)

    def _predict(self, x_t: Tensor, position: Tensor, prompts: Sequence[str]) -> Tensor:
        self.evaluations["grad" if torch.is_grad_enabled() else "no_grad"] += len(prompts)
        return self.family.predict(x_t, position, self._encoded.rows(prompts))
