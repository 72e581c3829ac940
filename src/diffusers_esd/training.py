"""One training: iterations of the loss, and how they went.

One iteration, with the student's and the teacher's predictions at states `x_t` of a trajectory:

    e_null, e_cond = teacher(x_t, ""), teacher(x_t, c)          one batch, no gradient
    loss           = MSE(student(x_t, c), e_null - eta * (e_cond - e_null))

and, where prompts p are held by a loss, on trajectories of their own

    loss          += preserve_weight * MSE(student(x_t, p), teacher(x_t, p))

Paper: arXiv:2303.07345, Eq. 7 and Sec. 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from diffusers.training_utils import free_memory, offload_models
from diffusers.utils.torch_utils import unwrap_module
from torch import Tensor, nn
from torch.nn import functional

from .adapter import Adapter
from .config import ESDConfig
from .denoiser import model_name
from .erasure import Provenance
from .families import Family
from .networks import Networks
from .objective import alignment, esd_target
from .trajectory import FreshTrajectory, Trajectory, TrajectoryPool

_PACKAGES = ("diffusers-esd", "torch", "diffusers", "peft", "transformers")
_SMOOTHING = 0.95
_ATTEMPTS = 32  # at an update, whose loss is scaled down each time
_REMEDY = "load the pipeline in bfloat16 or float32, or lower the learning rate."
_LEAST_ITERATIONS = 20  # before the smoothed alignment may stop a training


@dataclass(frozen=True)
class Progress:
    """What a callback is told after an iteration.

    Attributes:
        iteration: Iterations made, from 1.
        loss: Loss of this one.
        alignment: Alignment of its batch: 1 is intact, 0 the unconditional prediction, `-eta` the target.
        smoothed_alignment: Its moving average, which early stopping looks at.
    """

    iteration: int
    loss: float
    alignment: float
    smoothed_alignment: float


class Training:
    """What `ESDTrainer.erase` sets up, iterates and reports.

    Args:
        config: The configuration.
        family: The family.
        adapter: Our adapter on its denoiser, being trained.
        concepts: What is erased.
        student_prompts: What the student is trained on, and trajectories run on: the concepts, or `erase_from`.
        preserved: Prompts that the preserve loss draws from.
        shape: Of one latent.
    """

    def __init__(
        self,
        config: ESDConfig,
        family: Family,
        adapter: Adapter,
        *,
        concepts: Sequence[str],
        student_prompts: Sequence[str],
        preserved: Sequence[str],
        shape: tuple[int, ...],
    ) -> None:
        self.config, self.family, self.adapter = config, family, adapter
        self.concepts = tuple(concepts)
        self.shape = shape
        self.history: list[tuple[float, float]] = []
        self.smoothed: float | None = None
        self.complete = False
        family.prepare(config.num_inference_steps, shape, config.guidance_scale)
        held = preserved if config.loss_weight else ()
        self.networks = Networks(family, adapter, [*concepts, *student_prompts, *held])
        self.optimizer = _optimizer(config)(adapter.parameters, lr=config.learning_rate)
        # Gradients through half precision underflow; the scaler skips an update where they overflow.
        self.scaler = torch.amp.GradScaler(family.device.type, enabled=family.dtype == torch.float16)
        with self.roomy():
            self.trajectory = self._trajectory(student_prompts, 0)
            self.preserve = self._trajectory(held, 1) if held else None

    def _trajectory(self, prompts: Sequence[str], seed: int) -> Trajectory:
        kind = TrajectoryPool if self.config.trajectory == "pool" else FreshTrajectory
        return kind(
            self.networks,
            prompts,
            shape=self.shape,
            batch_size=self.config.batch_size,
            rollout=self.config.rollout,
            generator=torch.Generator().manual_seed(self.config.seed + seed),
        )

    @contextmanager
    def roomy(self) -> Iterator[None]:
        """Memory as the configuration asks for: activations computed again, other models out of the way."""
        denoiser: Any = self.family.denoiser
        switch = self.config.gradient_checkpointing and not denoiser.is_gradient_checkpointing
        others = _movable(self.family) if self.config.offload else []
        if switch:
            denoiser.enable_gradient_checkpointing()
        try:
            with offload_models(*others, device="cpu", offload=bool(others)):
                if others:
                    free_memory()
                yield
        finally:
            if switch:
                denoiser.disable_gradient_checkpointing()

    def run(self, callback: Callable[[Progress], None] | None) -> None:
        """Iterate until done, stopped by the alignment, or interrupted."""
        try:
            # The caller may be inside torch.no_grad(), as sampling scripts often are.
            bar = self.family.pipe.progress_bar(total=self.config.iterations)
            with self.roomy(), torch.enable_grad(), bar:
                while len(self.history) < self.config.iterations and not self._aligned():
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
        self.history.append(value)
        before = value[1] if self.smoothed is None else self.smoothed
        self.smoothed = _SMOOTHING * before + (1 - _SMOOTHING) * value[1]
        return Progress(len(self.history), *value, self.smoothed)

    def _attempt(self) -> tuple[tuple[float, float], bool]:
        """Loss, alignment, and whether there was an update: the scaler makes none where gradients overflow."""
        n, loss, aligned = self.config.gradient_accumulation_steps, 0.0, 0.0
        self.optimizer.zero_grad()
        for _ in range(n):
            erase, now = self._erase_loss()
            # Each part by itself, so that the activations of one are in memory at a time.
            loss += self._backward(erase / n)
            aligned += now.item() / n
            if self.preserve is not None:
                loss += self._backward(self._preserve_loss(self.preserve) * (self.config.loss_weight / n))
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return (loss, aligned), self.scaler.get_scale() >= scale

    def _backward(self, loss: Tensor) -> float:
        value = loss.item()
        if not math.isfinite(value):
            raise ValueError(f"The loss is {value}: predictions in {self.family.dtype} overflow; {_REMEDY}")
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return value

    def _erase_loss(self) -> tuple[Tensor, Tensor]:
        states = self.trajectory.draw()
        x_t, position, erase_from = states.x_t, states.position, self.config.erase_from
        nothing = [""] * len(position)
        e_from = None
        if erase_from is None:
            e_null, e_cond = self.networks.teacher(x_t, position, nothing, states.prompts)
        else:
            concept = list(self.concepts) * len(position)
            e_null, e_cond, e_from = self.networks.teacher(x_t, position, nothing, concept, states.prompts)
        e_student = self.networks.student(x_t, position, states.prompts)
        target = esd_target(e_cond, e_null, self.config.eta, e_from)
        e_teacher = e_cond if e_from is None else e_from
        self.trajectory.advance(states, self._rollout(e_student, e_teacher), e_null)
        aligned = alignment(e_student.detach(), e_cond, e_null, e_from)
        return functional.mse_loss(e_student.float(), target.float()), aligned

    def _preserve_loss(self, trajectory: Trajectory) -> Tensor:
        states = trajectory.draw()
        nothing = [""] * len(states.position)
        e_null, e_cond = self.networks.teacher(states.x_t, states.position, nothing, states.prompts)
        e_student = self.networks.student(states.x_t, states.position, states.prompts)
        trajectory.advance(states, self._rollout(e_student, e_cond), e_null)
        return functional.mse_loss(e_student.float(), e_cond.float())

    def _rollout(self, e_student: Tensor, e_teacher: Tensor) -> Tensor:
        return e_student.detach() if self.config.rollout == "student" else e_teacher

    def _aligned(self) -> bool:
        bound = self.config.stop_at_alignment
        if bound is None or self.smoothed is None or len(self.history) < _LEAST_ITERATIONS:
            return False
        return self.smoothed <= bound

    def provenance(self, seconds: float, evaluations_before: int) -> Provenance:
        """What the erasure was trained on and how it went."""
        evaluations = dict(self.networks.evaluations)
        evaluations["no_grad"] += evaluations_before
        return Provenance(
            concepts=self.concepts,
            base_model=model_name(self.family.pipe),
            family=type(self.family).__name__,
            component=self.family.component,
            pattern=self.adapter.selection.pattern,
            layers=len(self.adapter.selection.names),
            versions={package: version(package) for package in _PACKAGES},
            iterations=len(self.history),
            alignment=self.smoothed,
            seconds=round(seconds, 2),
            evaluations=evaluations,
            complete=self.complete,
            history=tuple(self.history),
        )


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
