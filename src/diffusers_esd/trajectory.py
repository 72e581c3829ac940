"""Where the training states `x_t` come from.

The paper denoises from fresh noise to a random timestep for every state (`FreshTrajectory`): about 50 network
evaluations to obtain one state, then three to train on it. But a denoising step at `x_t` needs exactly what the
loss at `x_t` needs: the teacher's conditional and unconditional predictions and the student's conditional one.
`TrajectoryPool` therefore keeps several trajectories under way, at different timesteps. An iteration takes a batch
of them, and the predictions of its loss also move them on by one step; a trajectory that has ended starts again from
fresh noise. States cost nothing, and every timestep comes equally often.

Both are guided by the family, usually as `e_null + guidance_scale * (e_rollout - e_null)`, with the teacher's `e_null`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .config import Rollout
from .networks import Networks


@dataclass(frozen=True)
class States:
    """A batch of training states.

    Attributes:
        x_t: Noisy latents, (B, C, H, W), in the denoiser's type.
        position: Where in the schedule each stands, (B,), 0 for pure noise.
        prompts: The prompt each is conditioned on.
        members: Index of each trajectory in its pool.
    """

    x_t: Tensor
    position: Tensor
    prompts: tuple[str, ...]
    members: tuple[int, ...] = ()


class Trajectory(Protocol):
    """A source of training states."""

    def draw(self) -> States:
        """A batch to train on."""

    def advance(self, states: States, e_rollout: Tensor, e_null: Tensor) -> None:
        """Take notice of the predictions made at `states`, each (B, C, H, W)."""


class _Sampler:
    """What both sources share: noise, choice of prompts, guidance and the step."""

    def __init__(
        self,
        networks: Networks,
        prompts: Sequence[str],
        *,
        shape: tuple[int, ...],
        batch_size: int,
        rollout: Rollout,
        generator: torch.Generator,
    ) -> None:
        self._networks = networks
        self._prompts = tuple(prompts)
        self._shape = shape
        self._batch_size = batch_size
        self._rollout = rollout
        self._generator = generator
        self._steps = len(networks.family.timesteps)
        self._begin()

    def _begin(self) -> None:
        """Prepare what `draw` needs; the constructor's last act."""

    def _integers(self, high: int, n: int) -> list[int]:
        return torch.randint(high, (n,), generator=self._generator).tolist()

    def _fresh_prompts(self, n: int) -> list[str]:
        if len(self._prompts) == 1:
            return list(self._prompts) * n
        return [self._prompts[i] for i in self._integers(len(self._prompts), n)]

    def _noise(self) -> Tensor:
        """One first state, (1, C, H, W). Drawn on the CPU, so that a seed means the same on every device."""
        family = self._networks.family
        noise = torch.randn((1, *self._shape), generator=self._generator)
        return noise.to(family.device, family.dtype)

    def _next(self, x_t: Tensor, position: int, e_rollout: Tensor, e_null: Tensor) -> Tensor:
        family = self._networks.family
        return family.step(family.guide(e_null, e_rollout), position, x_t)

    @torch.no_grad()
    def _denoise(self, x_t: Tensor, position: int, prompt: str) -> Tensor:
        """The next state of one trajectory, (1, C, H, W), at the cost of two evaluations."""
        at = torch.tensor([position])
        if self._rollout == "teacher":
            e_null, e_rollout = self._networks.teacher(x_t, at, [""], [prompt])
        else:
            (e_null,) = self._networks.teacher(x_t, at, [""])
            e_rollout = self._networks.student(x_t, at, [prompt])
        return self._next(x_t, position, e_rollout, e_null)


class FreshTrajectory(_Sampler):
    """A state is denoised from fresh noise by a uniform number of steps: the paper to the letter."""

    def draw(self) -> States:
        """`batch_size` states: a position and a prompt each, then noise denoised to that position."""
        positions = self._integers(self._steps, self._batch_size)
        prompts = self._fresh_prompts(self._batch_size)
        states = []
        for end, prompt in zip(positions, prompts, strict=True):
            x_t = self._noise()
            for position in range(end):
                x_t = self._denoise(x_t, position, prompt)
            states.append(x_t)
        return States(torch.cat(states), torch.tensor(positions), tuple(prompts))

    def advance(self, states: States, e_rollout: Tensor, e_null: Tensor) -> None:
        """Nothing: the next state starts anew."""


class TrajectoryPool(_Sampler):
    """States are those of trajectories under way; the predictions of the loss move them on.

    The pool has four trajectories per state of a batch (at most one per timestep) and takes them in shuffled turns,
    so neighbouring batches are of different trajectories. It starts from the states of one denoised trajectory, in
    equally spaced positions: the first iterations already see every part of the schedule.

    Attributes:
        x_t: Current state of each trajectory, (1, C, H, W).
        position: Where each stands.
        prompts: What each is conditioned on.
        noise: The state each has started from.
    """

    def _begin(self) -> None:
        size = max(self._batch_size, min(self._steps, 4 * self._batch_size))
        offset = torch.rand((), generator=self._generator).item()
        self.position = [int((i + offset) * self._steps / size) % self._steps for i in range(size)]
        self.prompts = self._fresh_prompts(1) * size
        self.noise = [self._noise()] * size
        path = [self.noise[0]]
        for position in range(max(self.position)):
            path.append(self._denoise(path[-1], position, self.prompts[0]))
        self.x_t = [path[position] for position in self.position]
        self._turns: list[int] = []

    def draw(self) -> States:
        """The next `batch_size` trajectories, at the states where they stand."""
        while len(self._turns) < self._batch_size:
            waiting = torch.randperm(len(self.x_t), generator=self._generator).tolist()
            # A batch never holds a trajectory twice: those still waiting come first, their second turn last.
            self._turns += [i for i in waiting if i not in self._turns] + [i for i in waiting if i in self._turns]
        members, self._turns = self._turns[: self._batch_size], self._turns[self._batch_size :]
        return States(
            torch.cat([self.x_t[i] for i in members]),
            torch.tensor([self.position[i] for i in members]),
            tuple(self.prompts[i] for i in members),
            tuple(members),
        )

    @torch.no_grad()
    def advance(self, states: States, e_rollout: Tensor, e_null: Tensor) -> None:
        """Move the trajectories of `states` by one step; those that end start again from fresh noise."""
        for n, i in enumerate(states.members):
            here = slice(n, n + 1)
            self.x_t[i] = self._next(self.x_t[i], self.position[i], e_rollout[here], e_null[here])
            self.position[i] += 1
            if self.position[i] == self._steps:
                self.position[i] = 0
                self.x_t[i] = self.noise[i] = self._noise()
                (self.prompts[i],) = self._fresh_prompts(1)
