"""Where the training states `x_t` come from.

The paper denoises from fresh noise to a random timestep for every state (`FreshTrajectory`): about 50 network
evaluations to obtain one state, then three to train on it. But a denoising step at `x_t` needs exactly what the
loss at `x_t` needs: the teacher's conditional and unconditional predictions and the student's conditional one.
`TrajectoryPool` (`pool`) therefore keeps several trajectories under way.

Both are guided by the family, usually as `e_null + guidance_scale * (e_rollout - e_null)`, with the teacher's `e_null`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..config import Rollout
from .networks import Networks
from ..streams import noise, permutation, stream


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

    resting: set[str]
    """Prompts that are not drawn."""

    def draw(self) -> States:
        """A batch to train on."""

    def rest(self, prompt: str) -> None:
        """Draw a prompt no more."""

    def wake(self, prompt: str) -> None:
        """Draw a resting prompt again."""

    def draw_resting(self) -> States:
        """A batch of resting prompts, to see whether they stay as they are."""

    def has_work(self) -> bool:
        """Whether a prompt is left that does not rest."""

    def advance(self, states: States, e_rollout: Tensor, e_null: Tensor) -> None:
        """Move the trajectories of `states` on with the predictions made there, each (B, C, H, W)."""


class Sampler:
    """What both sources share.

    Args:
        networks: Teacher and student.
        prompts: What trajectories are conditioned on.
        purpose: Name of the random streams.
        seed: Seed of the random streams.
        shape: Of one latent.
        batch_size: States in a batch.
        rollout: Whose prediction moves a trajectory.
        states: How many will be drawn in all, about.
        at_a_time: How many prompts have trajectories at a time; `None` means all.
    """

    def __init__(
        self,
        networks: Networks,
        prompts: Sequence[str],
        *,
        purpose: str,
        seed: int,
        shape: tuple[int, ...],
        batch_size: int,
        rollout: Rollout,
        states: int,
        at_a_time: int | None = None,
    ) -> None:
        self._networks = networks
        self._purpose, self._seed = purpose, seed
        self._prompts = [prompts[i] for i in permutation(len(prompts), self._stream("order"))]
        self._shape = shape
        self._batch_size = batch_size
        self._rollout = rollout
        self._steps = len(networks.family.timesteps)
        self.resting: set[str] = set()
        self._begin(states, at_a_time)

    def _begin(self, states: int, at_a_time: int | None) -> None:
        """Prepare what `draw` needs; the constructor's last act."""

    def rest(self, prompt: str) -> None:
        """Draw a prompt no more, because it needs no more training."""
        self.resting.add(prompt)

    def wake(self, prompt: str) -> None:
        """Draw a resting prompt again."""
        self.resting.remove(prompt)

    def has_work(self) -> bool:
        """Whether a prompt is left that does not rest."""
        return len(self.resting) < len(set(self._prompts))

    def _stream(self, *keys: int | str) -> torch.Generator:
        return stream(self._seed, self._purpose, *keys)

    def _noise(self, generator: torch.Generator) -> Tensor:
        """One first state, (1, C, H, W)."""
        family = self._networks.family
        return noise((1, *self._shape), generator).to(family.device, family.dtype)

    def _next(self, x_t: Tensor, position: Tensor, towards: Tensor, e_rollout: Tensor, e_null: Tensor) -> Tensor:
        family = self._networks.family
        return family.step(family.guide(e_null, e_rollout), x_t, position, towards)

    @torch.no_grad()
    def _denoise(self, x_t: Tensor, position: Tensor, towards: Tensor, prompts: Sequence[str]) -> Tensor:
        """The states (B, C, H, W) at later positions (B,), at the cost of two evaluations each."""
        nothing = [""] * len(prompts)
        if self._rollout == "teacher":
            e_null, e_rollout = self._networks.teacher(x_t, position, nothing, prompts)
        else:
            (e_null,) = self._networks.teacher(x_t, position, nothing)
            e_rollout = self._networks.student(x_t, position, prompts)
        return self._next(x_t, position, towards, e_rollout, e_null)


class FreshTrajectory(Sampler):
    """A state is denoised from fresh noise by a uniform number of steps: the paper to the letter.

    The prompt that was drawn least comes next.
    """

    def _begin(self, states: int, at_a_time: int | None) -> None:
        self._drawn = 0
        self._visits = dict.fromkeys(self._prompts, 0)

    def wake(self, prompt: str) -> None:
        """Draw a resting prompt again, as often as the others."""
        active = [count for other, count in self._visits.items() if other not in self.resting]
        super().wake(prompt)
        self._visits[prompt] = min(active, default=0)

    def draw(self) -> States:
        """`batch_size` states: a position and a prompt each, then noise denoised to that position."""
        return self._draw([prompt for prompt in self._prompts if prompt not in self.resting])

    def draw_resting(self) -> States:
        """The same of the resting prompts."""
        return self._draw([prompt for prompt in self._prompts if prompt in self.resting])

    def _draw(self, prompts: Sequence[str]) -> States:
        found: list[tuple[Tensor, int, str]] = []
        for _ in range(self._batch_size):
            generator = self._stream(self._drawn)
            prompt = min(prompts, key=self._visits.__getitem__)
            self._visits[prompt] += 1
            end = integer(self._steps, generator)
            x_t = self._noise(generator)
            for position in range(end):
                x_t = self._denoise(x_t, at(position), at(position + 1), [prompt])
            found.append((x_t, end, prompt))
            self._drawn += 1
        states, positions, drawn = zip(*found, strict=True)
        return States(torch.cat(states), at(*positions), drawn)

    def advance(self, states: States, e_rollout: Tensor, e_null: Tensor) -> None:
        """Nothing: the next state starts anew."""


def integer(high: int, generator: torch.Generator) -> int:
    """A random whole number below `high`."""
    return int(torch.randint(high, (), generator=generator, device="cpu"))


def at(*positions: int) -> Tensor:
    """Positions of a batch, (B,)."""
    return torch.tensor(positions, device="cpu")
