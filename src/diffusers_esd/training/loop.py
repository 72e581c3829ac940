"""One training: iterations of the loss.

One iteration, with the student's and the teacher's predictions at states `x_t` of a trajectory:

    e_null, e_cond = teacher(x_t, ""), teacher(x_t, c)          one batch, no gradient
    loss           = MSE(student(x_t, c), e_null - eta * (e_cond - e_null))

and, where a loss preserves prompts p, on trajectories of their own

    loss          += preserve_weight * MSE(student(x_t, p), teacher(x_t, p))

Paper: arXiv:2303.07345, Eq. 7 and Sec. 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from diffusers.training_utils import free_memory, offload_models
from diffusers.utils.torch_utils import unwrap_module
from torch import Tensor, nn
from torch.nn import functional

from ..config import ESDConfig
from ..families import Family
from .networks import Networks
from ..objective import along, esd_target
from .pool import PRESERVED_AT_A_TIME, TrajectoryPool
from .progress import Alignments, Progress
from ..run import RunConfig
from .trajectory import FreshTrajectory, States, Trajectory

_ATTEMPTS = 32  # at an update, whose loss is scaled down each time
_REMEDY = "load the pipeline in bfloat16 or float32, or lower the learning rate."
_LOOK_EVERY = 4  # iterations, at concepts that are done
_LOOKS = 8  # in which all of them are looked at


class Training:
    """What `ESDTrainer.erase` sets up, iterates and reports.

    Args:
        config: The configuration.
        networks: Teacher and student, at the training's schedule; they know the prompts below and the empty one.
        parameters: The weights that train.
        concepts: What is erased.
        student_prompts: What the student is trained on, and trajectories run on: the concepts, or `erase_from`.
        preserved: Prompts that the preserve loss takes in turn; none, and there is no such loss.
        shape: Of one latent.
    """

    def __init__(
        self,
        config: ESDConfig,
        networks: Networks,
        parameters: Sequence[nn.Parameter],
        *,
        concepts: Sequence[str],
        student_prompts: Sequence[str],
        preserved: Sequence[str],
        shape: tuple[int, ...],
    ) -> None:
        self.config, self.networks = config, networks
        self.concepts = tuple(concepts)
        self.shape = shape
        self.history: list[tuple[float, float]] = []
        self.alignments = Alignments(config.stop_at_alignment)
        self.complete = False
        self._seen: dict[str, int] = {}
        self._parameters = parameters
        self._optimizer = _optimizer(config)(parameters, lr=config.learning_rate)
        warm = config.lr_scheduler == "constant" and config.lr_warmup_steps
        self._lr_scheduler = get_scheduler(
            "constant_with_warmup" if warm else config.lr_scheduler,
            self._optimizer,
            num_warmup_steps=config.lr_warmup_steps,
            num_training_steps=config.iterations,
        )
        family = networks.family
        # Gradients through half precision underflow; the scaler skips an update where they overflow.
        self._scaler = torch.amp.GradScaler(family.device.type, enabled=family.dtype == torch.float16)
        self._erase = self._trajectory(student_prompts, "erase", None)
        self._preserve = self._trajectory(preserved, "preserve", PRESERVED_AT_A_TIME) if preserved else None

    def _trajectory(self, prompts: Sequence[str], purpose: str, at_a_time: int | None) -> Trajectory:
        kind = TrajectoryPool if self.config.trajectory == "pool" else FreshTrajectory
        return kind(
            self.networks,
            prompts,
            purpose=purpose,
            seed=self.config.seed,
            shape=self.shape,
            batch_size=self.config.batch_size,
            rollout=self.config.rollout,
            states=self.config.states,
            at_a_time=at_a_time,
        )

    def run(self, callback: Callable[[Progress], None] | None) -> None:
        """Iterate until all is done, all iterations are made, or Ctrl-C."""
        try:
            bar = self.networks.family.pipe.progress_bar(total=self.config.iterations)
            with bar:
                while len(self.history) < self.config.iterations and self._erase.has_work():
                    progress = self.iterate()
                    bar.set_postfix(loss=f"{progress.loss:.4f}", alignment=f"{progress.smoothed_alignment:.2f}")
                    bar.update()
                    if callback is not None:
                        callback(progress)
            self.complete = True
        except KeyboardInterrupt:
            pass

    def iterate(self) -> Progress:
        """One optimiser update; the same predictions move the trajectories on."""
        for _ in range(_ATTEMPTS):
            value, updated = self._attempt()
            if updated:
                break
        else:
            raise ValueError(f"The gradients overflowed {_ATTEMPTS} times in a row; {_REMEDY}")
        self._lr_scheduler.step()
        self.history.append(value)
        self._settle()
        smoothed = self.alignments.mean()
        assert smoothed is not None
        return Progress(len(self.history), *value, smoothed, self.alignments.values())

    def _attempt(self) -> tuple[tuple[float, float], bool]:
        """Loss, alignment, and whether there was an update: the scaler makes none where gradients overflow."""
        n, loss = self.config.gradient_accumulation_steps, 0.0
        forward = length = 0.0
        self._optimizer.zero_grad()
        for _ in range(n):
            erase, (a, b) = self._erase_loss(self._erase.draw())
            # Each part by itself, so that the activations of one are in memory at a time.
            loss += self._backward(erase / n)
            forward, length = forward + a, length + b
            if self._preserve is not None:
                loss += self._backward(self._preserve_loss(self._preserve) * (self.config.loss_weight / n))
        if self.config.max_grad_norm is not None:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self._parameters, self.config.max_grad_norm)
        scale = self._scaler.get_scale()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return (loss, forward / max(length, 1e-30)), self._scaler.get_scale() >= scale

    def _backward(self, loss: Tensor) -> float:
        value = loss.item()
        if not math.isfinite(value):
            raise ValueError(f"The loss is {value}: predictions in {self.networks.family.dtype} overflow; {_REMEDY}")
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return value

    def _erase_loss(self, states: States) -> tuple[Tensor, tuple[float, float]]:
        """The loss at a batch of states, and both sums of its alignment."""
        x_t, position, erase_from = states.x_t, states.position, self.config.erase_from
        nothing = [""] * len(position)
        e_from = None
        if erase_from is None:
            e_null, e_cond = self.networks.teacher(x_t, position, nothing, states.prompts)
        else:
            concept = list(self.concepts) * len(position)
            e_null, e_cond, e_from = self.networks.teacher(x_t, position, nothing, concept, states.prompts)
        e_student = self.networks.student(x_t, position, states.prompts)
        origin = None if e_from is None else e_from.float()
        target = esd_target(e_cond.float(), e_null.float(), self.config.eta, origin)
        e_teacher = e_cond if e_from is None else e_from
        self._erase.advance(states, self._rollout(e_student, e_teacher), e_null)
        forward, length = along(e_student.detach(), e_cond, e_null, e_from)
        self.alignments.update(states.prompts, forward, length)
        loss = functional.mse_loss(e_student.float(), target)
        self._seen |= dict.fromkeys(states.prompts, len(self.history))
        return loss, (forward.sum().item(), length.sum().item())

    def _preserve_loss(self, trajectory: Trajectory) -> Tensor:
        states = trajectory.draw()
        nothing = [""] * len(states.position)
        e_null, e_cond = self.networks.teacher(states.x_t, states.position, nothing, states.prompts)
        e_student = self.networks.student(states.x_t, states.position, states.prompts)
        trajectory.advance(states, self._rollout(e_student, e_cond), e_null)
        return functional.mse_loss(e_student.float(), e_cond.float())

    def _rollout(self, e_student: Tensor, e_teacher: Tensor) -> Tensor:
        return e_student.detach() if self.config.rollout == "student" else e_teacher

    def _settle(self) -> None:
        """Concepts that are done rest; a look now and then tells those whose alignment rises again."""
        resting = self._erase.resting
        if resting and len(self.history) % _LOOK_EVERY == 0:
            self._look(math.ceil(len(resting) / (_LOOKS * self.config.batch_size)))
        self._rest_or_wake()
        if not self._erase.has_work():
            # Before the end all are looked at that were not seen in this iteration.
            while any(self._seen[prompt] < len(self.history) - 1 for prompt in resting):
                self._look(1)
            self._rest_or_wake()

    @torch.no_grad()
    def _look(self, batches: int) -> None:
        """See how resting concepts are, without training them."""
        for _ in range(batches):
            self._erase_loss(self._erase.draw_resting())

    def _rest_or_wake(self) -> None:
        for prompt in self.alignments.visits:
            done = self.alignments.is_done(prompt)
            if done and prompt not in self._erase.resting:
                self._erase.rest(prompt)
            elif not done and prompt in self._erase.resting:
                self._erase.wake(prompt)


@contextmanager
def offloaded(family: Family, run: RunConfig) -> Iterator[None]:
    """The pipeline's other models out of the way, if that is wished."""
    others = _movable(family) if run.offload else []
    with offload_models(*others, device="cpu", offload=bool(others)):
        if others:
            free_memory()
        yield


@contextmanager
def checkpointed(family: Family, run: RunConfig) -> Iterator[None]:
    """Activations computed again in the backward pass, if that is wished."""
    denoiser: Any = family.denoiser
    if not run.gradient_checkpointing or denoiser.is_gradient_checkpointing:
        yield
        return
    denoiser.enable_gradient_checkpointing()
    try:
        yield
    finally:
        denoiser.disable_gradient_checkpointing()


def _movable(family: Family) -> list[nn.Module]:
    """The pipeline's other models, those that nothing moves already."""
    models = [model for model in family.pipe.components.values() if isinstance(model, nn.Module)]
    return [
        model
        for model in models
        if unwrap_module(model) is not family.denoiser
        and not hasattr(model, "_hf_hook")
        and not any(hasattr(module, "_diffusers_hook") for module in model.modules())
        and next(model.parameters(), None) is not None
    ]


def _optimizer(config: ESDConfig) -> Any:
    """Adam's class."""
    if config.optimizer == "adam":
        return torch.optim.Adam
    from bitsandbytes.optim import Adam8bit

    return Adam8bit
