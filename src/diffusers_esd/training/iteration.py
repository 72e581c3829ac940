"""`Iteration`: one optimiser update.

At states x_t of a trajectory of the concept c, and y_t of a trajectory of a preserved prompt p,

    e_a, e_cond = teacher(x_t, a), teacher(x_t, c)
    loss = MSE(student(x_t, c), e_a - eta * (e_cond - e_a))                            Eq. 7, arXiv:2303.07345
         + preserve_weight * MSE(student(y_t, p), teacher(y_t, p))

The anchor a is the empty prompt in the paper; trajectories are guided by the empty prompt, whatever the anchor is. With
`erase_from` = f, the student and the trajectory have the prompt f, not c, and the target of the first term becomes
`e_from - eta * (e_cond - e_a)` with `e_from = teacher(x_t, f)`. A pool makes its next denoising step with the same
predictions, so that training states cost no evaluations of their own.

Predictions, losses and their backward pass are functions of tensors, which a GPU runs as CUDA graphs (`graphs`). Each
of several processes computes them for its part of a batch, and gets the results of the others (`processes`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from ..config import ESDConfig
from ..objective import esd_target, projections
from .graphs import Buffered
from .networks import Networks
from .state import TrainingState
from .trajectory import States

_ATTEMPTS = 32  # per update; after one that overflows, the scaler halves the scale of the loss
_REMEDY = "load the pipeline in bfloat16 or float32, or lower the learning rate."


class Iteration:
    """Makes one optimiser update per call of `update`.

    Args:
        config: The configuration.
        anchors: The anchor of each concept that is erased.
        networks: Teacher and student.
        state: What an iteration changes.
    """

    def __init__(self, config: ESDConfig, anchors: Mapping[str, str], networks: Networks, state: TrainingState) -> None:
        self._config, self._anchors, self._networks, self._state = config, anchors, networks, state
        self._erase_pass = Buffered(self._pass_of_erasing, networks.graphs)
        self._preserve_pass = Buffered(self._pass_of_preserving, networks.graphs)
        for parameter in state.parameters:
            parameter.grad = torch.zeros_like(parameter)  # a graph adds to gradients that exist

    @torch.no_grad()
    def measure(self, states: States) -> None:
        """Move trajectories on and record the alignments, without training on the states."""
        self._networks.count(no_grad=len(states.prompts))
        self._erase(states)

    def _erase(self, states: States) -> tuple[float, float, float]:
        """The first term of the loss, and the two sums of the batch's alignment.

        It also adds the loss's gradients if they are enabled, moves the trajectories on, and records the alignments.
        """
        prompts, state, networks = states.prompts, self._state, self._networks
        # With `erase_from`, which allows one concept, the states' prompt is another.
        concepts = prompts if self._config.erase_from is None else list(self._anchors) * len(prompts)
        asked: dict[str, Sequence[str]] = {"null": [""] * len(prompts), "cond": concepts}
        if any(self._anchors.values()):
            asked["anchor"] = [self._anchors[concept] for concept in concepts]
        if self._config.erase_from is not None:
            asked["from"] = prompts
        networks.count(no_grad=len(asked) * len(prompts))
        rows = networks.processes.rows(len(prompts))
        part, asked_of_part = states.part(rows), [prompts[rows] for prompts in asked.values()]
        results = self._erase_pass(
            part.x_t, part.position.to(part.x_t.device), self._scale(1.0), **networks.rows(*asked_of_part)
        )
        loss, along, length, e_null, e_rollout = networks.processes.gather(len(prompts), *results)
        state.erase.advance(states, e_rollout, e_null)
        value, *parts = torch.cat([loss[None], along, length]).tolist()  # waits for the device once
        numerators, denominators = parts[: len(prompts)], parts[len(prompts) :]
        state.alignments.update(prompts, numerators, denominators)
        state.last_seen |= dict.fromkeys(prompts, len(state.history))
        return value, sum(numerators), sum(denominators)

    def _pass_of_erasing(self, x_t: Tensor, position: Tensor, scale: Tensor, **rows: Tensor) -> tuple[Tensor, ...]:
        """The loss, both parts of the alignment (B,), and the two predictions that move the trajectories.

        Args:
            x_t: States, (B, C, H, W).
            position: Their positions, (B,).
            scale: Factor of the gradients.
            rows: For B empty prompts, B concepts, B anchors if there are any, and B prompts of `erase_from`, if so.
        """
        n = len(x_t)
        e_null, e_cond, *others = self._networks.predict_as_teacher(x_t, position, **rows)
        e_a = others[0] if any(self._anchors.values()) else e_null
        e_from = None if self._config.erase_from is None else others[-1]
        asked = slice(n, 2 * n) if e_from is None else slice(-n, None)
        e_student = self._networks.predict_as_student(x_t, position, **{key: row[asked] for key, row in rows.items()})
        origin = None if e_from is None else e_from.float()
        loss = mse_loss(e_student.float(), esd_target(e_cond.float(), e_a.float(), self._config.eta, origin))
        self._backward(loss, scale)
        along, length = projections(e_student.detach(), e_cond, e_a, e_from)
        return loss.detach(), along, length, e_null, self._rollout(e_student, e_cond if e_from is None else e_from)

    def _preserve(self, states: States) -> float:
        """The second term of the loss, without its weight. It also adds its gradients and moves the trajectories on."""
        n, networks, preserve = len(states.prompts), self._networks, self._state.preserve
        assert preserve is not None
        networks.count(no_grad=2 * n, grad=n)
        part = states.part(networks.processes.rows(n))
        results = self._preserve_pass(
            part.x_t,
            part.position.to(part.x_t.device),
            self._scale(self._config.loss_weight),
            **networks.rows([""] * len(part.prompts), part.prompts),
        )
        loss, e_null, e_rollout = networks.processes.gather(n, *results)
        preserve.advance(states, e_rollout, e_null)
        return loss.item()

    def _pass_of_preserving(self, y_t: Tensor, position: Tensor, scale: Tensor, **rows: Tensor) -> tuple[Tensor, ...]:
        """The loss, and the two predictions that move the trajectories."""
        n = len(y_t)
        e_null, e_teacher = self._networks.predict_as_teacher(y_t, position, **rows)
        e_student = self._networks.predict_as_student(y_t, position, **{key: row[n:] for key, row in rows.items()})
        loss = mse_loss(e_student.float(), e_teacher.float())
        self._backward(loss, scale)
        return loss.detach(), e_null, self._rollout(e_student, e_teacher)

    def _backward(self, loss: Tensor, scale: Tensor) -> None:
        if torch.is_grad_enabled():
            (loss * scale).backward()  # type: ignore[no-untyped-call]

    def _scale(self, weight: float) -> Tensor:
        """Factor of a term's gradients: its weight in the mean of all batches, times the scale of float16."""
        factor = weight / self._config.gradient_accumulation_steps
        device = self._networks.schedule.timesteps.device
        return self._state.scaler.scale(torch.full((), factor, device=device, dtype=torch.float32))

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
        self._state.lr_scheduler.step()
        self._state.history.append(entry)

    def _accumulate(self) -> tuple[float, float]:
        """The mean gradients of all batches. Returns the loss and the alignment."""
        state, n = self._state, self._config.gradient_accumulation_steps
        state.optimizer.zero_grad(set_to_none=False)
        loss = along = length = 0.0
        for _ in range(n):
            batch = state.erase.draw()
            self._networks.count(grad=len(batch.prompts))
            # Each term has its own backward pass, so that only the activations of one term are in memory.
            value, a, b = self._erase(batch)
            loss, along, length = loss + self._checked(value) / n, along + a, length + b
            if state.preserve is not None:
                weight = self._config.loss_weight / n
                loss += self._checked(self._preserve(state.preserve.draw())) * weight
        return loss, along / max(length, 1e-30)

    def _checked(self, loss: float) -> float:
        if not math.isfinite(loss):
            dtype = self._networks.schedule.family.dtype
            raise ValueError(f"The loss is {loss}: predictions in {dtype} overflow; {_REMEDY}")
        return loss

    def _step(self) -> bool:
        """The optimiser's step. Returns whether it was made: it is skipped if gradients overflow."""
        state = self._state
        self._networks.processes.average([p.grad for p in state.parameters if p.grad is not None])
        if self._config.max_grad_norm is not None:
            state.scaler.unscale_(state.optimizer)
            nn.utils.clip_grad_norm_(state.parameters, self._config.max_grad_norm)
        scale = state.scaler.get_scale()
        state.scaler.step(state.optimizer)
        state.scaler.update()
        return state.scaler.get_scale() >= scale  # it is lowered after an overflow only

    def _rollout(self, e_student: Tensor, e_teacher: Tensor) -> Tensor:
        """The prediction that moves the trajectories."""
        return e_student.detach() if self._config.rollout == "student" else e_teacher
