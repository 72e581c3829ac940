"""`ESDTrainer`: a pipeline and a configuration in, an `Erasure` out.

One iteration, with the student's and the teacher's predictions at states `x_t` of a trajectory:

    e_null, e_cond = teacher(x_t, ""), teacher(x_t, c)          one batch, no gradient
    loss           = MSE(student(x_t, c), e_null - eta * (e_cond - e_null))

and, where prompts p are held by a loss, on trajectories of their own

    loss          += preserve_weight * MSE(student(x_t, p), teacher(x_t, p))

Before that, `null_space` decides what the adapter's layers may listen to at all.

Paper: arXiv:2303.07345, Eq. 7 and Sec. 4.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from torch.nn import functional

from . import vocabulary
from .adapter import Adapter, base_layers, check_denoiser, check_name, evaluation
from .config import ESDConfig, check_prompt
from .erasure import Erasure, Provenance
from .families import Family, family_for
from .groups import Selection, select
from .networks import Networks
from .null_space import NullSpace, null_space
from .objective import alignment, esd_target
from .trajectory import FreshTrajectory, Trajectory, TrajectoryPool

_PACKAGES = ("diffusers-esd", "torch", "diffusers", "peft", "transformers")
_SMOOTHING = 0.95
_LEAST_ITERATIONS = 20  # before the smoothed alignment may stop a training
_CONTEXTS = 32  # words in whose company the concept is looked at
_PRESERVED = 256  # prompts that the preserve loss draws from


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


class ESDTrainer:
    """Erases concepts from a pipeline's denoiser.

    Args:
        pipe: A pipeline of a known family.
        config: The configuration; `None` means the defaults.
        family: For a kind of pipeline the package does not know: its family.
        overrides: Fields of `ESDConfig` to change.

    Raises:
        TypeError: If the pipeline is of no known family, or a field is unknown.
        ValueError: If the pipeline or the configuration cannot be trained; the message says what to do.
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        config: ESDConfig | None = None,
        *,
        family: Family | None = None,
        **overrides: Any,
    ) -> None:
        self.config = ESDConfig.from_dict({**(config or ESDConfig()).to_dict(), **overrides})
        self.family = family if family is not None else family_for(pipe)
        self.family.check()
        self._shape = self.family.latent_shape(self.config.size)
        self._selection()

    def erase(
        self,
        concept: str | Sequence[str],
        *,
        name: str | None = None,
        callback: Callable[[Progress], None] | None = None,
    ) -> Erasure:
        """Train an adapter that erases a concept. It stays on the pipeline, active beside what was active before.

        Args:
            concept: The concept in words, or several that one adapter erases together.
            name: Name of the adapter; `None` makes one of the concept, `"no-van-gogh"`.
            callback: Called after every iteration.

        Returns:
            The erasure. After Ctrl-C it is what was reached, with `provenance.complete` false.

        Raises:
            TypeError: If a concept is no text.
            ValueError: If a concept is empty, the name cannot be used, or the pipeline cannot be trained.
        """
        concepts = [concept] if isinstance(concept, str) else list(concept)
        if not concepts:
            raise ValueError("concept is an empty list; give at least one prompt.")
        for prompt in concepts:
            check_prompt("concept", prompt)
        if len(concepts) > 1 and self.config.erase_from is not None:
            raise ValueError("erase_from takes a single concept; erase several with one call each.")
        name = name if name is not None else "no-" + "-".join(map(_slug, concepts))
        selection = self._selection()
        check_name(self.family.denoiser, name)
        started = time.monotonic()
        preserved = self._preserved(concepts)
        space = self._null_space(selection, concepts, preserved) if preserved and self.config.null_space else None
        adapter = Adapter(
            self.family.denoiser,
            name,
            selection if space is None else selection.only(space.rows),
            rank=self.config.rank,
            lora_alpha=self.config.lora_alpha or self.config.rank,
            seed=self.config.seed,
            rows=None if space is None else space.rows,
        )
        try:
            with adapter.training():
                training = _Training(self, adapter, concepts, preserved[:_PRESERVED])
                training.run(callback)
            adapter.fold_scale()
        except BaseException:
            adapter.detach()
            raise
        provenance = training.provenance(adapter, started, 0 if space is None else space.evaluations)
        return Erasure(name, adapter.weights(self.family.component), self.config, provenance)

    def _selection(self) -> Selection:
        """The layers to train, of a denoiser that can be trained."""
        check_denoiser(self.family.denoiser)
        modules = [module for module, _ in self.family.denoiser.named_modules()]
        return select(base_layers(self.family.denoiser), modules, self.config.group)

    def _preserved(self, concepts: Sequence[str]) -> tuple[str, ...]:
        """The prompts to preserve."""
        if not isinstance(self.config.preserve, str):
            return self.config.preserve
        return vocabulary.preserved(self.family, [*concepts, *self._student_prompts(concepts)], self._generator(2))

    def _null_space(self, selection: Selection, concepts: Sequence[str], preserved: Sequence[str]) -> NullSpace:
        """Where the adapter may listen."""
        generator, words = self._generator(3), vocabulary.words(self.family.tokenizer)
        prompts = [vocabulary.in_contexts(c, words, _CONTEXTS, generator) for c in self._student_prompts(concepts)]
        with evaluation(self.family.denoiser):
            return null_space(
                self.family,
                selection.confinable().names,
                concept=[prompt for group in prompts for prompt in group],
                preserved=preserved,
                rank=self.config.rank,
                shape=self._shape,
                generator=generator,
            )

    def _student_prompts(self, concepts: Sequence[str]) -> list[str]:
        """What the student is trained on, and trajectories run on: the concepts, or `erase_from`."""
        return list(concepts) if self.config.erase_from is None else [self.config.erase_from]

    def _generator(self, use: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.config.seed + use)


class _Training:
    """One training: what `ESDTrainer.erase` sets up, iterates and reports."""

    def __init__(
        self, trainer: ESDTrainer, adapter: Adapter, concepts: Sequence[str], preserved: Sequence[str]
    ) -> None:
        self.config, self.family, self.pipe = trainer.config, trainer.family, trainer.family.pipe
        self.concepts = tuple(concepts)
        self.history: list[tuple[float, float]] = []
        self.smoothed: float | None = None
        self.complete = False
        config = self.config
        self.family.set_schedule(config.num_inference_steps)
        student_prompts = trainer._student_prompts(concepts)
        held = preserved if config.loss_weight else ()
        self.networks = Networks(self.family, adapter, [*concepts, *student_prompts, *held])
        self.optimizer = torch.optim.Adam(adapter.parameters, lr=config.learning_rate)
        self.parameters = adapter.parameters
        self.trajectory = self._trajectory(trainer._shape, student_prompts, trainer._generator(0))
        self.preserve = self._trajectory(trainer._shape, held, trainer._generator(1)) if held else None

    def _trajectory(self, shape: tuple[int, ...], prompts: Sequence[str], generator: torch.Generator) -> Trajectory:
        kind = TrajectoryPool if self.config.trajectory == "pool" else FreshTrajectory
        return kind(
            self.networks,
            prompts,
            shape=shape,
            guidance_scale=self.config.guidance_scale,
            batch_size=self.config.batch_size,
            rollout=self.config.rollout,
            generator=generator,
        )

    def run(self, callback: Callable[[Progress], None] | None) -> None:
        """Iterate until done, stopped by the alignment, or interrupted."""
        try:
            # The caller may be inside torch.no_grad(), as sampling scripts often are.
            with torch.enable_grad(), self.pipe.progress_bar(total=self.config.iterations) as bar:
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
        loss, aligned = self._erase_loss()
        if self.preserve is not None:
            loss = loss + self.config.loss_weight * self._preserve_loss(self.preserve)
        gradients = torch.autograd.grad(loss, self.parameters)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        value = (loss.item(), aligned.item())
        self.history.append(value)
        before = value[1] if self.smoothed is None else self.smoothed
        self.smoothed = _SMOOTHING * before + (1 - _SMOOTHING) * value[1]
        return Progress(len(self.history), *value, self.smoothed)

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

    def provenance(self, adapter: Adapter, started: float, evaluations_before: int) -> Provenance:
        """What the erasure was trained on and how it went."""
        evaluations = dict(self.networks.evaluations)
        evaluations["no_grad"] += evaluations_before
        return Provenance(
            concepts=self.concepts,
            base_model=_model_name(self.pipe),
            family=type(self.family).__name__,
            component=self.family.component,
            pattern=adapter.selection.pattern,
            layers=len(adapter.selection.names),
            versions={package: version(package) for package in _PACKAGES},
            iterations=len(self.history),
            alignment=self.smoothed,
            seconds=round(time.monotonic() - started, 2),
            evaluations=evaluations,
            complete=self.complete,
            history=tuple(self.history),
        )


def _model_name(pipe: Any) -> str:
    """The Hub id of a pipeline's model; of a local one only its folder's name, for the rest is nobody's business."""
    source = str(pipe.config.get("_name_or_path") or type(pipe).__name__)
    return Path(source).name if Path(source).exists() else source


def _slug(concept: str) -> str:
    return re.sub(r"[^\w]+", "-", concept.lower()).strip("-") or "concept"
