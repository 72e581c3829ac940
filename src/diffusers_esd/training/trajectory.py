"""Sources of training states x_t.

x_t lies on a denoising trajectory of a prompt. A trajectory starts from noise, and moves with the guided prediction
`e_null + guidance_scale * (e_rollout - e_null)`: `e_null` is the teacher's, `e_rollout` the student's or the teacher's.

    trajectory="pool"   (default) x_t is the current state of one of several trajectories, which then moves on with the
                        predictions of the loss: `TrajectoryPool` in `pool.py`
    trajectory="fresh"  x_t is denoised from new noise to a random timestep, as in the paper: `FreshTrajectory` here

`docs/theory.md` compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..config import Rollout
from ..streams import permutation, stream
from .networks import Networks


@dataclass(frozen=True)
class States:
    """A batch of training states.

    Attributes:
        x_t: Noisy latents, (B, C, H, W), in the denoiser's type.
        position: Where in the schedule each stands, (B,), 0 for pure noise.
        prompts: The prompt of each state's trajectory.
        members: Index of each trajectory in its pool.
    """

    x_t: Tensor
    position: Tensor
    prompts: tuple[str, ...]
    members: tuple[int, ...] = ()

    def part(self, rows: slice) -> States:
        """Some of the states."""
        return States(self.x_t[rows], self.position[rows], self.prompts[rows], self.members[rows])


class Trajectory(Protocol):
    """A source of training states."""

    resting: set[str]
    """Prompts that are not drawn."""

    def draw(self) -> States:
        """A batch to train on."""

    def rest(self, prompt: str) -> None:
        """Stop drawing a prompt."""

    def wake(self, prompt: str) -> None:
        """Draw a resting prompt again."""

    def draw_resting(self) -> States:
        """A batch of resting prompts, to see whether their alignment stays low."""

    def has_work(self) -> bool:
        """Whether any prompt is not resting."""

    def advance(self, states: States, e_rollout: Tensor, e_null: Tensor) -> None:
        """Move the trajectories of `states` on, with the predictions made there, each (B, C, H, W)."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""


class Sampler:
    """What both sources share.

    Args:
        networks: Teacher and student.
        prompts: The prompts of the trajectories.
        purpose: Name of the random streams.
        seed: Seed of the random streams.
        batch_size: States in a batch of all processes.
        rollout: Whose prediction moves a trajectory.
        states: About how many will be drawn in total.
        at_a_time: Largest number of prompts that have trajectories at a time; `None` means all.
        begin: Whether trajectories start; `False` if `load_state_dict` follows.

    Attributes:
        networks: Teacher and student.
        resting: Prompts that are not drawn.
    """

    def __init__(
        self,
        networks: Networks,
        prompts: Sequence[str],
        *,
        purpose: str,
        seed: int,
        batch_size: int,
        rollout: Rollout,
        states: int,
        at_a_time: int | None = None,
        begin: bool = True,
    ) -> None:
        self.networks = networks
        self._schedule = networks.schedule
        self._purpose, self._seed = purpose, seed
        self._prompts = [prompts[i] for i in permutation(len(prompts), self._stream("order"))]
        self._batch_size = batch_size
        self._rollout = rollout
        self._steps = len(self._schedule.timesteps)
        self.resting: set[str] = set()
        self._set_up(states, at_a_time)
        if begin:
            self._begin()

    def _set_up(self, states: int, at_a_time: int | None) -> None:
        """Prepare `draw`, without an evaluation."""

    def _begin(self) -> None:
        """Start trajectories."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes."""
        return {"resting": sorted(self.resting)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.resting = set(state["resting"])

    def rest(self, prompt: str) -> None:
        """Stop drawing a prompt, because it does not need more training."""
        self.resting.add(prompt)

    def wake(self, prompt: str) -> None:
        """Draw a resting prompt again."""
        self.resting.remove(prompt)

    def has_work(self) -> bool:
        """Whether any prompt is not resting."""
        return len(self.resting) < len(set(self._prompts))

    @torch.no_grad()
    def denoise(self, x_t: Tensor, position: Tensor, towards: Tensor, prompts: Sequence[str]) -> Tensor:
        """The states (B, C, H, W) at later positions (B,), at the cost of two evaluations each."""
        empty = [""] * len(prompts)
        if self._rollout == "teacher":
            e_null, e_rollout = self.networks.teacher(x_t, position, empty, prompts)
        else:
            (e_null,) = self.networks.teacher(x_t, position, empty)
            e_rollout = self.networks.student(x_t, position, prompts)
        return self._next(x_t, position, towards, e_rollout, e_null)

    def _next(self, x_t: Tensor, position: Tensor, towards: Tensor, e_rollout: Tensor, e_null: Tensor) -> Tensor:
        return self._schedule.step(self._schedule.guide(e_null, e_rollout), x_t, position, towards)

    def _stream(self, *keys: int | str) -> torch.Generator:
        return stream(self._seed, self._purpose, *keys)


class FreshTrajectory(Sampler):
    """Each state is denoised from new noise by a random number of steps, exactly as in the paper.

    The prompt that was drawn least comes next.
    """

    def _set_up(self, states: int, at_a_time: int | None) -> None:
        self._drawn = 0
        self._visits = dict.fromkeys(self._prompts, 0)

    def state_dict(self) -> dict[str, Any]:
        """How many states were drawn, and how many of each prompt."""
        return {**super().state_dict(), "drawn": self._drawn, "visits": self._visits}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self._drawn, self._visits = state["drawn"], dict(state["visits"])

    def wake(self, prompt: str) -> None:
        """Draw a resting prompt again, as often as the others."""
        active = [count for other, count in self._visits.items() if other not in self.resting]
        super().wake(prompt)
        self._visits[prompt] = min(active, default=0)

    def draw(self) -> States:
        """`batch_size` states: each has a random position and a prompt, and is denoised from noise to that position.

        The states that other processes evaluate are not denoised.
        """
        return self._draw([prompt for prompt in self._prompts if prompt not in self.resting])

    def draw_resting(self) -> States:
        """The same for the resting prompts."""
        return self._draw([prompt for prompt in self._prompts if prompt in self.resting])

    def _draw(self, prompts: Sequence[str]) -> States:
        drawn: list[tuple[Tensor, int, str]] = []
        own = self.networks.processes.rows(self._batch_size)
        for i in range(self._batch_size):
            generator = self._stream(self._drawn)
            prompt = min(prompts, key=self._visits.__getitem__)
            self._visits[prompt] += 1
            end = integer(self._steps, generator)
            x_t = self._schedule.noise(generator)
            if own.start <= i < own.stop:
                for position in range(end):
                    x_t = self.denoise(x_t, at(position), at(position + 1), [prompt])
            else:  # evaluated, and so denoised, by another process
                self.networks.count(no_grad=2 * end)
            drawn.append((x_t, end, prompt))
            self._drawn += 1
        states, positions, their_prompts = zip(*drawn, strict=True)
        return States(torch.cat(states), at(*positions), their_prompts)

    def advance(self, states: States, e_rollout: Tensor, e_null: Tensor) -> None:
        """Nothing: the next state starts from new noise."""


def integer(high: int, generator: torch.Generator) -> int:
    """A random whole number below `high`."""
    return int(torch.randint(high, (), generator=generator, device="cpu"))


def at(*positions: int) -> Tensor:
    """Positions of a batch, (B,)."""
    return torch.tensor(positions, device="cpu")
