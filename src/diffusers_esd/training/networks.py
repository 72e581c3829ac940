"""Teacher and student, one denoiser: predictions at positions of a schedule, for encoded prompts.

Every prediction is counted in samples (a batch of three counts as three). Network evaluations are the cost of a
training, and unlike seconds they do not depend on the machine.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..adapter import Adapter
from ..families import Conditioning, Schedule
from .encoding import Encoded
from .graphs import Buffered, Graphs
from .processes import Processes


class Networks:
    """Predictions of a denoiser with our adapter off (teacher) and on (student).

    Args:
        schedule: The schedule that positions refer to.
        adapter: Our adapter on the schedule's denoiser.
        encoded: The prompts of the predictions, with the empty one.
        graphs: How predictions are captured.
        processes: Those that evaluate; `None` means this one alone.

    Attributes:
        graphs: How predictions are captured.
        processes: Those that evaluate.
        evaluations: Samples that all of them evaluated so far: `"no_grad"` and `"grad"`.
    """

    def __init__(
        self,
        schedule: Schedule,
        adapter: Adapter,
        encoded: Encoded,
        graphs: Graphs,
        processes: Processes | None = None,
    ) -> None:
        self.schedule, self.graphs = schedule, graphs
        self.processes = processes or Processes()
        self._adapter = adapter
        self._encoded = encoded
        self.evaluations = {"no_grad": 0, "grad": 0}
        self._teacher = Buffered(self.predict_as_teacher, graphs)
        self._student = Buffered(lambda *tensors, **rows: (self.predict_as_student(*tensors, **rows),), graphs)

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
        rows = self.rows(*prompts)
        self.count(no_grad=len(prompts) * len(x_t))
        return self._teacher(x_t, position.to(x_t.device), **rows)

    @torch.no_grad()
    def student(self, x_t: Tensor, position: Tensor, prompts: Sequence[str]) -> Tensor:
        """The student's predictions (B, C, H, W), without gradient."""
        self.count(no_grad=len(x_t))
        return self._student(x_t, position.to(x_t.device), **self.rows(prompts))[0]

    def rows(self, *prompts: Sequence[str]) -> Conditioning:
        """The conditionings of all prompts of several lists."""
        return self._encoded.rows([prompt for batch in prompts for prompt in batch])

    def count(self, **evaluations: int) -> None:
        """Count samples, `no_grad` and `grad`."""
        for kind, samples in evaluations.items():
            self.evaluations[kind] += samples

    @torch.no_grad()
    def predict_as_teacher(self, x_t: Tensor, position: Tensor, **rows: Tensor) -> tuple[Tensor, ...]:
        """The teacher's predictions for n * B rows at B states: n tensors (B, C, H, W). Counts nothing."""
        n = len(next(iter(rows.values()))) // len(x_t)
        with self._adapter.off():
            return self.schedule.predict(torch.cat([x_t] * n), position.repeat(n), rows).chunk(n)

    def predict_as_student(self, x_t: Tensor, position: Tensor, **rows: Tensor) -> Tensor:
        """The student's predictions for B rows, (B, C, H, W), with gradient if it is enabled. Counts nothing."""
        return self.schedule.predict(x_t, position, rows)
