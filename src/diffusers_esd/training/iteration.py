"""`Iteration`: one optimiser update.

At states x_t of a trajectory of the concept c, and y_t of a trajectory of a preserved prompt p,

    e_a, e_cond = teacher(x_t, a), teacher(x_t, c)
    loss = MSE(student(x_t, c), e_a - eta * (e_cond - e_a))                            Eq. 7, arXiv:2303.07345
         + preserve_weight * MSE(student(y_t, p), teacher(y_t, p))

The anchor a is the empty prompt in the paper; trajectories are guided by the empty prompt, whatever the anchor is. With
`erase_from` = f, the student and the trajectory have the prompt f, not c, and the target of the first term becomes
`e_from - eta * (e_cond - e_a)` with `e_from = teacher(x_t, f)`. A pool makes its next denoising step with the same
predictions, so that training states cost no evaluations of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from ..config import ESDConfig
from ..objective import esd_target, projections
from .networks import Networks
from .state import TrainingState
from .trajectory import States

_ATTEMPTS = 32  # per update; after one that overflows, the scaler halves the scale of the loss
_REMEDY = "load the pipeline in bfloat16 or float32, or lower the learning rate."


@dataclass(frozen=True)
class Iteration:
    """Makes one optimiser update per call of `update`.

    Attributes:
        config: The configuration.
        anchors: The anchor of each concept that is erased.
        networks: Teacher and student.
        state: What an iteration changes.
    """

    config: ESDConfig
    anchors: Mapping[str, str]
    networks: Networks
    state: TrainingState

    def erase_loss(self, states: States) -> tuple[Tensor, Tensor]:
        """The first term of the loss, and the two sums of the batch's alignment, (2,).

        It also moves the trajectories on, and records the alignments.
        """
        x_t, position, prompts = states.x_t, states.position, states.prompts
        # With `erase_from`, which allows one concept, the states' prompt is another.
        concepts = prompts if self.config.erase_from is None else list(self.anchors) * len(prompts)
        asked: dict[str, Sequence[str]] = {"null": [""] * len(prompts), "cond": concepts}
        if any(self.anchors.values()):
            asked["anchor"] = [self.anchors[concept] for concept in concepts]
        if self.config.erase_from is not None:
            asked["from"] = prompts
        e = dict(zip(asked, self.networks.teacher(x_t, position, *asked.values()), strict=True))
        e_null, e_cond, e_a, e_from = e["null"], e["cond"], e.get("anchor", e["null"]), e.get("from")
        e_student = self.networks.student(x_t, position, prompts)
        origin = None if e_from is None else e_from.float()
        loss = mse_loss(e_student.float(), esd_target(e_cond.float(), e_a.float(), self.config.eta, origin))

        self.state.erase.advance(states, self._rollout(e_student, e_cond if e_from is None else e_from), e_null)
        along, length = projections(e_student.detach(), e_cond, e_a, e_from)
        self.state.alignments.update(prompts, along, length)
        self.state.last_seen |= dict.fromkeys(prompts, len(self.state.history))
        return loss, torch.stack([along.sum(), length.sum()])

    def preserve_loss(self, states: States) -> Tensor:
        """The second term of the loss, without its weight. It also moves the trajectories on."""
        y_t, position, prompts = states.x_t, states.position, states.prompts
        e_null, e_teacher = self.networks.teacher(y_t, position, [""] * len(prompts), prompts)
        e_student = self.networks.student(y_t, position, prompts)
        assert self.state.preserve is not None
        self.state.preserve.advance(states, self._rollout(e_student, e_teacher), e_null)
        return mse_loss(e_student.float(), e_teacher.float())

    def update(self) -> None:
        """One optimiser update, and one more entry in the history. If gradients overflow, it tries other states.

        Raises:
            ValueError: If predictions or gradients overflow in the base model's type.
        """
        for _ in range(_ATTEMPTS):
            entry = self._accumulate()
            if self._step():
                break
        else:
            raise ValueError(f"The gradients overflowed {_ATTEMPTS} times in a row; {_REMEDY}")
        self.state.lr_scheduler.step()
        self.state.history.append(entry)

    def _accumulate(self) -> tuple[float, float]:
        """The mean gradients of all batches. Returns the loss and the alignment."""
        state, n = self.state, self.config.gradient_accumulation_steps
        state.optimizer.zero_grad()
        loss = along = length = 0.0
        for _ in range(n):
            erase, sums = self.erase_loss(state.erase.draw())
            # Each term has its own backward pass, so that only the activations of one term are in memory.
            loss += self._backward(erase / n)
            along, length = along + sums[0].item(), length + sums[1].item()
            if state.preserve is not None:
                preserve = self.preserve_loss(state.preserve.draw())
                loss += self._backward(preserve * (self.config.loss_weight / n))
        return loss, along / max(length, 1e-30)

    def _backward(self, loss: Tensor) -> float:
        value = loss.item()
        if not math.isfinite(value):
            dtype = self.networks.schedule.family.dtype
            raise ValueError(f"The loss is {value}: predictions in {dtype} overflow; {_REMEDY}")
        self.state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return value

    def _step(self) -> bool:
        """The optimiser's step. Returns whether it was made: it is skipped if gradients overflow."""
        state = self.state
        if self.config.max_grad_norm is not None:
            state.scaler.unscale_(state.optimizer)
            nn.utils.clip_grad_norm_(state.parameters, self.config.max_grad_norm)
        scale = state.scaler.get_scale()
        state.scaler.step(state.optimizer)
        state.scaler.update()
        return state.scaler.get_scale() >= scale  # it is lowered after an overflow only

    def _rollout(self, e_student: Tensor, e_teacher: Tensor) -> Tensor:
        """The prediction that moves the trajectories."""
        return e_student.detach() if self.config.rollout == "student" else e_teacher
