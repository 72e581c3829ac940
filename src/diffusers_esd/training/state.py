"""`TrainingState`: everything that an iteration changes. A checkpoint is this state, written to a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from torch import nn

from ..config import ESDConfig
from .networks import Networks
from .pool import PRESERVED_AT_A_TIME, TrajectoryPool
from .progress import Alignments
from .prompts import Prompts
from .trajectory import FreshTrajectory, Trajectory


@dataclass
class TrainingState:
    """The state of a training between two iterations.

    Attributes:
        parameters: The weights that train.
        optimizer: Adam.
        lr_scheduler: The learning-rate schedule.
        scaler: Scales the loss on a base in float16, because gradients would underflow; it skips an update if they
            overflow.
        erase: The source of states on which the concept is erased.
        preserve: The source of states of the preserve loss, if there is one.
        alignments: The smoothed alignment of each prompt of the student.
        last_seen: The iteration that drew each prompt of the student last.
        history: Loss and alignment of each iteration.
    """

    parameters: Sequence[nn.Parameter]
    optimizer: Any
    lr_scheduler: Any
    scaler: torch.amp.GradScaler
    erase: Trajectory
    preserve: Trajectory | None
    alignments: Alignments
    last_seen: dict[str, int] = field(default_factory=dict)
    history: list[tuple[float, float]] = field(default_factory=list)


def new_state(
    config: ESDConfig, networks: Networks, parameters: Sequence[nn.Parameter], prompts: Prompts
) -> TrainingState:
    """The state before the first iteration.

    Args:
        config: The configuration.
        networks: Teacher and student; they have the prompts encoded.
        parameters: The weights that train.
        prompts: The prompts.
    """
    family = networks.schedule.family
    optimizer = _optimizer(config)(parameters, lr=config.learning_rate)
    has_warmup = config.lr_scheduler == "constant" and config.lr_warmup_steps
    return TrainingState(
        parameters=parameters,
        optimizer=optimizer,
        lr_scheduler=get_scheduler(
            "constant_with_warmup" if has_warmup else config.lr_scheduler,
            optimizer,
            num_warmup_steps=config.lr_warmup_steps,
            num_training_steps=config.iterations,
        ),
        scaler=torch.amp.GradScaler(family.device.type, enabled=family.dtype == torch.float16),
        erase=_trajectory(config, networks, prompts.student, "erase", None),
        preserve=_trajectory(config, networks, prompts.loss, "preserve", PRESERVED_AT_A_TIME) if prompts.loss else None,
        alignments=Alignments(config.stop_at_alignment),
    )


def _trajectory(
    config: ESDConfig, networks: Networks, prompts: Sequence[str], purpose: str, at_a_time: int | None
) -> Trajectory:
    kind = TrajectoryPool if config.trajectory == "pool" else FreshTrajectory
    return kind(
        networks,
        prompts,
        purpose=purpose,
        seed=config.seed,
        batch_size=config.batch_size,
        rollout=config.rollout,
        states=config.states,
        at_a_time=at_a_time,
    )


def _optimizer(config: ESDConfig) -> Any:
    """Adam's class."""
    if config.optimizer == "adam":
        return torch.optim.Adam
    from bitsandbytes.optim import Adam8bit

    return Adam8bit
