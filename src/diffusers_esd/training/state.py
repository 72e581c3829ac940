"""`TrainingState`: everything that an iteration changes. (The training states x_t are in `trajectory`.)

`state_dict` is the part of a checkpoint that changes; `checkpoint` adds what no iteration changes, such as the A of a
null space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        scaler: For a base model in float16: multiplies the loss, so that gradients do not underflow, and skips an
            update if they overflow.
        erase: The source of x_t for the erase loss.
        preserve: The source of x_t for the preserve loss, if there is one.
        alignments: The smoothed alignment of each prompt that the student is trained on: the concepts, or `erase_from`.
        last_seen: For each of these prompts, the iteration, from 0, that last drew or measured it.
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

    def state_dict(self) -> dict[str, Any]:
        """Everything, between two iterations. The tensors are not copied."""
        return {
            "parameters": [parameter.detach() for parameter in self.parameters],
            **{name: part.state_dict() for name, part in self._parts().items()},
            "last_seen": self.last_seen,
            "history": self.history,
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned. The parameters stay the same tensors."""
        for parameter, saved in zip(self.parameters, state["parameters"], strict=True):
            assert parameter.shape == saved.shape
            parameter.copy_(saved)
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.last_seen = dict(state["last_seen"])
        self.history = [tuple(entry) for entry in state["history"]]

    def _parts(self) -> dict[str, Any]:
        names = ("optimizer", "lr_scheduler", "scaler", "erase", "preserve", "alignments")
        return {name: part for name in names if (part := getattr(self, name)) is not None}


def new_state(
    config: ESDConfig,
    networks: Networks,
    parameters: Sequence[nn.Parameter],
    prompts: Prompts,
    saved: Mapping[str, Any] | None = None,
) -> TrainingState:
    """The state before the first iteration, or a saved one.

    Args:
        config: The configuration.
        networks: Teacher and student; the prompts are encoded already.
        parameters: The weights that train.
        prompts: The prompts.
        saved: What `TrainingState.state_dict` returned.
    """
    family = networks.schedule.family
    optimizer = _optimizer(config, parameters)
    # The other schedules have a warm-up of their own.
    kind = (
        "constant_with_warmup" if config.lr_scheduler == "constant" and config.lr_warmup_steps else config.lr_scheduler
    )
    begin = saved is None
    state = TrainingState(
        parameters=parameters,
        optimizer=optimizer,
        lr_scheduler=get_scheduler(
            kind,
            optimizer,
            num_warmup_steps=config.lr_warmup_steps,
            num_training_steps=config.iterations,
        ),
        scaler=torch.amp.GradScaler(family.device.type, enabled=family.dtype == torch.float16),
        erase=_trajectory(config, networks, prompts.student, "erase", None, begin),
        preserve=_trajectory(config, networks, prompts.loss, "preserve", PRESERVED_AT_A_TIME, begin)
        if prompts.loss
        else None,
        alignments=Alignments(config.stop_at_alignment),
    )
    if saved is not None:
        state.load_state_dict(saved)
    return state


def _trajectory(
    config: ESDConfig, networks: Networks, prompts: Sequence[str], purpose: str, at_a_time: int | None, begin: bool
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
        begin=begin,
    )


def _optimizer(config: ESDConfig, parameters: Sequence[nn.Parameter]) -> Any:
    if config.optimizer == "adam":
        # One kernel for all weights, where the default starts several for each.
        return torch.optim.Adam(parameters, lr=config.learning_rate, fused=True)
    from bitsandbytes.optim import Adam8bit

    return Adam8bit(parameters, lr=config.learning_rate)
